"""Pickled tables of tensors, read as data: nothing that a file names is ever imported or run.

PyTorch writes state dicts and TorchScript modules as pickles, which are programs for a small stack
machine. This is that machine without its dangerous half: calls make a :class:`Call` (which says
what was to be called), and nothing else happens. What it makes is bounded by the pickle's length.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Steps of one pickle; a checkpoint of the largest CLIP with its optimizer's state has 200,000.
_MAX_STEPS = 600_000
_MARK = object()


class PickleError(ValueError):
    """A pickle that is damaged, or that no state dict and no module would need."""


@dataclass(eq=False)
class Call:
    """What a pickle wanted to be called, or made: a class by name, its arguments and its state."""

    name: str
    arguments: tuple = ()
    state: Any = None
    items: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name[:100]


def read_pickle(
    content: bytes | io.BufferedIOBase,
    rebuild: Callable[[str, tuple], Any] = Call,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The object that a pickle of protocol 2 stands for.

    Args:
        content: the pickle, or a file at its start, which is left behind its end.
        rebuild: (name, arguments) → what a call gives; the default keeps it as a :class:`Call`.
        persistent: what a persistent id stands for.

    Raises:
        PickleError: damaged, too long, or made of anything else than plain values and calls.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    machine = _Machine(rebuild, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count == _MAX_STEPS:
                raise PickleError("a pickle of endless length")
            if opcode.name == "STOP":
                return machine.stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise PickleError(f"a pickle with the instruction {opcode.name}")
            step(machine, argument)
    except PickleError:
        raise
    except Exception as error:  # whatever a crafted pickle may do to the steps below
        raise PickleError("a damaged pickle") from error
    raise PickleError("a pickle without an end")


class _Machine:
    def __init__(self, rebuild: Callable, persistent: Callable | None) -> None:
        self.stack: list = []
        self.memo: dict[int, Any] = {}
        self.rebuild, self.persistent = rebuild, persistent

    def since_mark(self) -> list:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise PickleError("a pickle without a mark")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def fill(self, values: list) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, Call) else target
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | bool | None):  # others take long to hash
                raise PickleError("a pickle with odd keys")
            target[key] = value

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise PickleError("a pickle that calls no function")
        if function.name == "collections.OrderedDict" and not arguments:
            self.push({})
        else:
            self.push(self.rebuild(function.name, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Call):  # dicts carry notes such as versions: not needed
            self.stack[-1].state = state

    def load(self) -> None:
        if self.persistent is None:
            raise PickleError("a pickle with values kept elsewhere")
        self.push(self.persistent(self.stack.pop()))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, values: list) -> None:
        self.stack[-1].extend(values)

    def pair(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.fill([key, value])


def _tuple_of(count: int) -> Callable:
    def step(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < count:
            raise PickleError("a pickle with too few values")
        values = machine.stack[len(machine.stack) - count :]
        del machine.stack[len(machine.stack) - count :]
        machine.push(tuple(values))

    return step


def _push(machine: _Machine, value: Any) -> None:
    machine.push(value)


_STEPS: dict[str, Callable] = {
    "PROTO": lambda m, version: None,
    "MARK": lambda m, _: m.push(_MARK),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
            *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES"),
        ),
        _push,
    ),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "SETITEM": lambda m, _: m.pair(),
    "SETITEMS": lambda m, _: m.fill(m.since_mark()),
    "BINPUT": lambda m, index: m.put(index),
    "LONG_BINPUT": lambda m, index: m.put(index),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": lambda m, name: m.push(Call(name.replace(" ", "."))),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.load(),
}
