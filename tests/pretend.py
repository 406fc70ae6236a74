"""A pretend second device, so that the handling of devices is tested without one.

Tensors on ``'gpu'`` hold their values in a CPU tensor behind them. Every operation is seen on its
way: one that mixes devices is an error, and what a real device would wait for is counted.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "gpu"
aten = torch.ops.aten
_set_up = False
# A real device stops for these: their result is read, or its size depends on values.
_WAITS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero,
          aten.unique_dim, aten._unique2, aten.bincount)  # fmt: skip
# These take tensors of two devices by right.
_COPIES = (aten._to_copy, aten.copy_, aten._copy_from)


class PretendTensor(torch.Tensor):
    """A tensor whose device is the pretended one."""

    @staticmethod
    def __new__(cls, real):
        made = torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(),
            dtype=real.dtype, device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        made.held = real
        return made

    def __repr__(self, **kwargs):
        return f"PretendTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function}: used outside of `pretended()`")

    __torch_function__ = torch._C._disabled_torch_function_impl


class Pretend(TorchDispatchMode):
    """Computes what is asked of the device, and counts.

    Attributes:
        counts: ``'wait'`` and ``'copy in'`` (from the host; it may be asynchronous only where it is
            pinned) by name, and ``'operations'``.
    """

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.log = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        packet, mine, host = function.overloadpacket, [], []
        for value in _tensors((args, kwargs)):
            (mine if isinstance(value, PretendTensor) else host).append(value)
        asked = kwargs.get("device")
        there = asked is not None and torch.device(asked).type == NAME
        if not mine and not there:
            return function(*args, **kwargs)
        self.counts["operations"] += 1
        if packet in _COPIES:
            target = there if packet is aten._to_copy and asked is not None else (
                isinstance(args[0], PretendTensor))  # fmt: skip
            source = args[0] if packet is aten._to_copy else args[1]
            if target and not isinstance(source, PretendTensor) and source.numel():
                self._count("copy in", function)
            elif not target and isinstance(source, PretendTensor):
                self._count("wait", function)
        else:
            if mine and any(value.ndim for value in host):
                shapes = [tuple(value.shape) for value in host]
                raise AssertionError(f"{function} mixes devices: {shapes} are on the host")
            target = True
            if packet in _WAITS:
                self._count("wait", function)
                target = packet is not aten._local_scalar_dense
        if there:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        plain = tree_map_only(PretendTensor, lambda value: value.held, (args, kwargs))
        result = function(*plain[0], **plain[1])
        changed = {id(value.held): value for value in mine}

        def wrapped(value):
            if id(value) in changed:
                return changed[id(value)]
            return PretendTensor(value) if target else value

        return tree_map_only(torch.Tensor, wrapped, result)

    def _count(self, what, function):
        self.counts[what] += 1
        self.log.append(f"{what}: {function}")


@contextmanager
def pretended():
    """The device ``'gpu'`` exists inside; yields what counts."""
    global _set_up
    if not _set_up:
        _setup_privateuseone_for_python_backend(NAME)
        _set_up = True
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with Pretend() as counter:
            yield counter
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def _tensors(tree):
    found = []
    tree_map_only(torch.Tensor, found.append, tree)
    return found
