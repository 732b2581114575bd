"""The one exception that speaks to the person at the keyboard."""


class UserError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that names what was given and what would be right. The command line prints it
    alone, without a stack trace, and exits with status 2.
    """


def first_line(error: Exception) -> str:
    """The first line of an error's message, without a full stop, or its type where it has none."""
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
