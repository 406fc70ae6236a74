"""The exceptions that mean: the user's input is wrong, and here is how to mend it."""


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
