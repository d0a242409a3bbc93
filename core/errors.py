"""The one error that a person may cause: it is shown as a single line, without a traceback."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something that was handed in (a file, a name, an option) can't be used.

    The message is one line that says what was wrong, what was expected and what to do about it.
    The command line prints it as ``error: ...`` and leaves with exit code 2.
    """
