"""The one exception that means: the user's input is wrong, and here is how to mend it."""


class InputError(ValueError):
    """Bad input: its message is one sentence naming file, line or key, expectation and remedy.

    Command-line tools print the message without a traceback and exit with code 2.
    """
