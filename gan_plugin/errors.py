"""The one exception that speaks to the person at the keyboard."""

from collections.abc import Sequence


class UserError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that names what was given and what would be right. The command line prints it
    alone, without a stack trace, and exits with status 2.
    """


def different_classes(ours: Sequence[str], theirs: Sequence[str], most: int = 10) -> tuple[str, str]:
    """Two lists of class names that differ, in words: all names where there are few, else those where they part.

    >>> different_classes("ab", "b")
    ('a, b', 'b')
    >>> different_classes([str(i) for i in range(1000)], [str(i) for i in range(998)])
    ('998, 999 (1,000 in all)', 'none after 997 (998 in all)')
    """
    pairs = zip(ours, theirs)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))

    def words(names: Sequence[str]) -> str:
        if max(len(ours), len(theirs)) <= most:
            return ", ".join(names) or "none"
        shown = names[first : first + most]
        more = ["…"] if first + most < len(names) else []
        said = ", ".join([*(["…"] if shown and first else []), *shown, *more])
        return f"{said or (f'none after {names[-1]}' if names else 'none')} ({len(names):,} in all)"

    return words(ours), words(theirs)


def first_line(error: Exception) -> str:
    """The first line of an error's message, without a full stop, or its type where it has none."""
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
