"""The one exception of the preparation."""


class PreparationError(Exception):
    """Raw data cannot be prepared as asked.

    The message is one sentence for the person at the terminal: it names the file or place, what
    was expected there and how to mend it. The command lines print it without a traceback.
    """
