"""The one exception that speaks to the person at the keyboard."""

from collections.abc import Sequence
from typing import Any

MAX_NAME = 40  # characters of a name in a sentence


class UserError(ValueError):
    """Something the user gave is wrong.

    The message is one sentence that names what was given and what would be right. The command line prints it
    alone, without a stack trace, and exits with status 2.
    """


def different_classes(left: Sequence[str], right: Sequence[str], limit: int = 10) -> tuple[str, str]:
    """Describe two lists of class names that differ: by all names where there are few, else from where they part.

    >>> different_classes("ab", "b")
    ('a, b', 'b')
    >>> different_classes([str(i) for i in range(1000)], [str(i) for i in range(998)])
    ('…, 998, 999 (1,000 in all)', 'none after 997 (998 in all)')
    """
    first = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))

    def describe(names: Sequence[str]) -> str:
        if max(len(left), len(right)) <= limit:
            return ", ".join(names) or "none"
        total = f"({len(names):,} in all)"
        part = names[first : first + limit]
        if not part:
            return f"none after {names[-1]} {total}" if names else f"none {total}"
        before = ["…"] if first else []
        after = ["…"] if first + limit < len(names) else []
        return f"{', '.join([*before, *part, *after])} {total}"

    return describe(left), describe(right)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without a full stop, or its type where it has none."""
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__


def quoted(value: Any) -> str:
    """Return a value as it was written, cut where it is too long for a sentence.

    >>> quoted("cat"), quoted("c" * 100) == repr("c" * 40) + "…"
    ("'cat'", True)
    """
    if isinstance(value, str) and len(value) > MAX_NAME:
        return f"{value[:MAX_NAME]!r}…"
    text = repr(value)
    return text if isinstance(value, str) or len(text) <= MAX_NAME else f"{text[:MAX_NAME]}…"


def join_names(names: Sequence[str], most: int = 20) -> str:
    """Return the first names, and how many there are if those are not all; long names are cut.

    >>> join_names(["a", "b", "c"]), join_names(["a", "b", "c"], most=2)
    ('a, b, c', 'a, b, … (3 in all)')
    """
    printable = [name if name.isprintable() else ascii(name) for name in names[:most]]
    text = ", ".join(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…" for name in printable)
    return text if len(names) <= most else f"{text}, … ({len(names):,} in all)"
