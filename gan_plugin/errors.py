"""The one exception that speaks to the person at the keyboard."""


class UserError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that names what was given and what would be right. The command line prints it
    alone, without a stack trace, and exits with status 2.
    """
