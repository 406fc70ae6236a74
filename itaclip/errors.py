"""The exceptions that mean: the user's input is wrong, and here is how to mend it."""

import math


class InputError(ValueError):
    """Bad input: its message is one sentence naming file, line or key, expectation and remedy.

    Command-line tools print the message without a traceback and exit with code 2.
    """


class BadSampleError(InputError):
    """One image or mask that cannot be used; the others of its data set may well be.

    Args:
        message: as of :class:`InputError`; it begins with the file.
        path: the file. A data loader's process sends the message alone: the path is then empty.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self):
        return type(self), (str(self), self.path)


def check_number(
    name: str, value: object, low: float, high: float = math.inf, integer: bool = False
) -> None:
    """Refuses what is no number from ``low`` to ``high``, or no integer where one is asked for.

    Raises:
        InputError: naming the key.
    """
    kind = int if integer else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "an integer" if integer else "a number"
        upto = f" to {high:g}" if high < math.inf else ""
        raise InputError(f"{name}: expected {what} from {low:g}{upto}, but got {value!r}.")
