"""Checks of single values: one sentence for each kind of expectation.

NumPy's scalars count as numbers, and come back as Python's; True and False do not.
"""

import math
import numbers
from typing import Any, overload

import numpy as np

from .errors import InputError

_BOOLS = (bool, np.bool_)


def is_integer(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a whole number, and from ``low`` to ``high``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, _BOOLS)
    return whole and low <= value <= high


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite real number, and from ``low`` to ``high``."""
    real = isinstance(value, numbers.Real) and not isinstance(value, _BOOLS)
    return real and math.isfinite(value) and low <= value <= high


def flag(value: object, key: str) -> bool:
    """True or False.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, _BOOLS):
        raise InputError(f"{key}: expected True or False, but got {value!r}.")
    return bool(value)


@overload
def integer(
    value: Any, key: str, low: int = 0, high: int | None = None, *, what: str = "an integer"
) -> int: ...
@overload
def integer(
    value: Any,
    key: str,
    low: int = 0,
    high: int | None = None,
    *,
    optional: bool,
    what: str = "an integer",
) -> int | None: ...
def integer(
    value: Any,
    key: str,
    low: int = 0,
    high: int | None = None,
    *,
    optional: bool = False,
    what: str = "an integer",
) -> int | None:
    """A whole number from ``low`` to ``high``; with ``optional``, also None.

    Args:
        what: what the value is, for the message.

    Raises:
        InputError: it is none, with the range.
    """
    if optional and value is None:
        return None
    if not is_integer(value, low, math.inf if high is None else high):
        limit = f"from {low}" + ("" if high is None else f" to {high}")
        raise InputError(f"{key}: expected {_or_none(optional)}{what} {limit}, but got {value!r}.")
    return int(value)


def number(
    value: object,
    key: str,
    low: float = 0,
    high: float | None = None,
    *,
    optional: bool = False,
    above: bool = False,
    what: str = "a number",
) -> float | None:
    """A finite number from ``low`` (with ``above``: above it) to ``high``.

    Args:
        optional: None is passed on.
        what: what the value is, for the message.

    Raises:
        InputError: it is none, with the range.
    """
    if optional and value is None:
        return None
    wrong = not is_number(value, low, math.inf if high is None else high)
    if wrong or (above and value == low):
        limit = f"{'above' if above else 'from'} {low}" + ("" if high is None else f" to {high}")
        raise InputError(f"{key}: expected {_or_none(optional)}{what} {limit}, but got {value!r}.")
    return plain(value)


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's; anything else as it is."""
    return value.item() if isinstance(value, numbers.Number) and hasattr(value, "item") else value


def _or_none(optional: bool) -> str:
    return "None or " if optional else ""
