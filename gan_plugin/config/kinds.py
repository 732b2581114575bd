"""What a parameter accepts: a phrase for people and a parser of text. Imports nothing heavy.

Values arrive as text, because MLflow and the shell hand parameters on unchecked. Values from Python are written as text
first (:func:`text_of`), so that there is one set of checks.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import field
from typing import Any, NamedTuple, cast

from gan_plugin.config.schedule import parse_ramp
from gan_plugin.errors import UserError
from gan_plugin.spec import MAX_SIDE, MIN_SIDE, parse_size

AUTO = "auto"
NONE = "none"
LOCK_SUFFIX = ".promotion-lock"  # a registered model whose name ends so is the lock of another one
MAX_NAME = 190  # characters of a registered model's name; MLflow's databases take 256, of a lock's name too


class Accepts(NamedTuple):
    """What a parameter accepts.

    Attributes:
        phrase: what to give, to follow the word "give" in a message.
        parse: text → value; raises ValueError for anything else.
        separator: what stands between the elements of a sequence from Python when it is written as text.
        choices: the words, where it accepts no others.
    """

    phrase: str
    parse: Callable[[str], Any]
    separator: str = ","
    choices: tuple[str, ...] = ()


# ---- kinds -----------------------------------------------------------------------------------------------------------


def whole_number(minimum: int, maximum: int | None = None, multiple_of: int = 1) -> Accepts:
    """Accept integers from ``minimum`` to ``maximum`` that are multiples of ``multiple_of``."""

    def parse(text: str) -> int:
        value = int(text)
        if value < minimum or (maximum is not None and value > maximum) or value % multiple_of:
            raise ValueError
        return value

    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    return Accepts(f"a {'whole number' if multiple_of == 1 else f'multiple of {multiple_of}'} {bounds}", parse)


def positive_number() -> Accepts:
    """Accept finite numbers above 0."""
    return _number("a number above 0", lambda value: 0 < value < math.inf)


def non_negative_number() -> Accepts:
    """Accept 0 and finite numbers above it."""
    return _number("a number of at least 0", lambda value: 0 <= value < math.inf)


def fraction() -> Accepts:
    """Accept numbers in [0, 1)."""
    return _number("a number from 0 to below 1", lambda value: 0 <= value < 1)


def share() -> Accepts:
    """Accept numbers in (0, 1]."""
    return _number("a number above 0, at most 1", lambda value: 0 < value <= 1)


def _number(phrase: str, possible: Callable[[float], bool]) -> Accepts:
    def parse(text: str) -> float:
        value = float(text)
        if not possible(value):
            raise ValueError
        return value

    return Accepts(phrase, parse)


def ramp(end: Accepts) -> Accepts:
    """Accept a number, or ``A..B``: from A to B while training goes on."""
    return Accepts(f"{end.phrase}, or two with .. between them", lambda text: parse_ramp(text, end.parse), "..")


def one_of(*names: str) -> Accepts:
    """Accept one of ``names``."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Accepts(f"one of {', '.join(names)}", parse, choices=names)


def channel_count() -> Accepts:
    """Accept the number of an image's channels."""
    return Accepts("1 or 3", lambda text: int(one_of("1", "3").parse(text)))


def image_size() -> Accepts:
    """Accept ``HEIGHTxWIDTH`` or one number.

    >>> image_size().parse("64"), image_size().parse("256x128")
    ((64, 64), (256, 128))
    """
    return Accepts(
        f"HEIGHTxWIDTH or one number for both, each from {MIN_SIDE} to {MAX_SIDE}", parse_size, separator="x"
    )


def yes_or_no() -> Accepts:
    """Accept true, yes, 1, false, no and 0, in any case."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

    def parse(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]

    return Accepts("true or false", parse)


def any_text() -> Accepts:
    """Accept any text but blanks."""

    def parse(text: str) -> str:
        if not text.strip():
            raise ValueError
        return text.strip()

    return Accepts("some text", parse)


def toml_path() -> Accepts:
    """Accept the path of a TOML file."""

    def parse(text: str) -> str:
        if not text.strip().endswith(".toml"):
            raise ValueError
        return text.strip()

    return Accepts("a path that ends in .toml", parse)


def registered_name() -> Accepts:
    """Accept what can be registered with MLflow, named by ``models:/NAME/1`` and ``models:/NAME@ALIAS``, and locked.

    A URI ends at ``?``, loses control characters, and has ``/``, ``:`` and ``@`` between its parts; ``%`` and ``#``
    mean something to other programs that read it. Quotes end a name in MLflow's searches.
    """

    def parse(text: str) -> str:
        name = text.strip()
        if (
            not 0 < len(name) <= MAX_NAME
            or not name.isprintable()
            or set(name) & set("/:@?#%\\'\"")
            or name.startswith(".")
            or name.lower().endswith(LOCK_SUFFIX)
        ):
            raise ValueError
        return name

    return Accepts(
        f"a name of at most {MAX_NAME} printable characters without / : @ ? # % \\ and quotes, which neither begins "
        f"with a period nor ends in {LOCK_SUFFIX}",
        parse,
    )


def or_auto(accepts: Accepts) -> Accepts:
    """Accept the same, or ``auto``, which is None in the settings object."""
    return _or_word(accepts, AUTO)


def or_none(accepts: Accepts) -> Accepts:
    """Accept the same, or ``none``, which is None in the settings object."""
    return _or_word(accepts, NONE)


def _or_word(accepts: Accepts, word: str) -> Accepts:
    return Accepts(
        f"{accepts.phrase}, or {word}",
        lambda text: None if text == word else accepts.parse(text),
        accepts.separator,
    )


# ---- values and text -------------------------------------------------------------------------------------------------


def parameter(default: Any, accepts: Accepts, sentence: str, *, text: str | None = None, **metadata: Any) -> Any:
    """Return a dataclass field with everything that is to know about a parameter.

    Args:
        default: the value where nothing is given.
        sentence: what it means, for ``--help`` and the reference.
        text: the default as a user would type it, where that is not ``text_of(default)``.
        metadata: more that is kept with the field.
    """
    written = text_of(default, accepts.separator) if text is None else text
    return field(default=default, metadata={"text": written, "accepts": accepts, "help": sentence, **metadata})


def text_of(value: object, separator: str = ",") -> str:
    """Write a value as a user would type it.

    >>> text_of(True), text_of((256, 128), "x"), text_of(0.5), text_of(None)
    ('true', '256x128', '0.5', 'none')
    """
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if type(value) in (tuple, list):  # not a Ramp or a Threshold, which write themselves
        return separator.join(map(text_of, cast(Iterable[object], value))) or NONE
    return str(value)


def parse_value(name: str, text: str, accepts: Accepts) -> Any:
    """Parse the text of one parameter.

    Raises:
        UserError: the parameter does not accept it; the sentence says what it accepts.
    """
    try:
        return accepts.parse(text)
    except ValueError:
        raise UserError(f"{name}={text!r} is not possible: give {accepts.phrase}.") from None


def unknown_parameter(name: str, known: Collection[str]) -> UserError:
    """Return the refusal of a parameter that does not exist, with those that may have been meant."""
    similar = difflib.get_close_matches(name, known, n=3)
    hint = f"similar ones are {', '.join(similar)}" if similar else f"the parameters are {', '.join(known)}"
    return UserError(f"Unknown parameter {name}: {hint}.")
