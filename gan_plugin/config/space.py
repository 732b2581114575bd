"""The space of a search: which hyperparameters it varies, and between which values. Imports no torch.

A space is written as ``FIELD=VALUES`` with commas between: ``A..B`` is a range, ``a|b|c`` are choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gan_plugin.config.kinds import Accepts, parse_value, unknown_parameter
from gan_plugin.config.recipe import HYPERPARAMETERS, Recipe, override, parse_hyperparameters
from gan_plugin.config.schedule import Ramp
from gan_plugin.errors import UserError

LOG_RATIO = 10  # of the ends, from which a range is searched on a log scale
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of a value that changes during training, since a range has no place for it
MAX_HALF_LIFE = 0.5
DIGITS = 4  # of a value that a search draws: more would only make a recipe harder to read


@dataclass(frozen=True)
class Range:
    """All values from ``low`` to ``high``, both included: whole numbers where these two are."""

    low: float
    high: float

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int)

    @property
    def is_log(self) -> bool:
        """Whether it is searched on a log scale.

        >>> Range(1e-4, 1e-2).is_log, Range(16, 64).is_log, Range(0.0, 10.0).is_log
        (True, False, False)
        """
        return self.low > 0 and self.high >= LOG_RATIO * self.low

    def text(self, value: float) -> str:
        """Write a value of the range with few digits.

        >>> Range(1e-4, 1e-2).text(0.00123456)
        '0.001235'
        """
        rounded = value if self.is_whole else float(f"{value:.{DIGITS}g}")
        return str(min(max(rounded, self.low), self.high))

    def nearest(self, value: Any) -> float:
        """Return the value of the range that is nearest to a recipe's; of one that changes, to its start."""
        number = value.start if isinstance(value, Ramp) else value
        return min(max(number, self.low), self.high)


@dataclass(frozen=True)
class Choices:
    """Values of which one is taken, as a user types them."""

    texts: tuple[str, ...]


Space = dict[str, Range | Choices]


# ---- from text -------------------------------------------------------------------------------------------------------


def parse_space(text: str) -> Space:
    """Parse a space such as ``generator_lr=1e-4..1e-2,batch_size=16|32``.

    >>> parse_space("generator_lr=1e-4..1e-2,batch_size=16|32")
    {'generator_lr': Range(low=0.0001, high=0.01), 'batch_size': Choices(texts=('16', '32'))}

    Raises:
        UserError: names the field that is unknown, occurs twice, or does not accept its values.
    """
    space: Space = {}
    for entry in text.split(","):
        name, separator, values = (part.strip() for part in entry.partition("="))
        name = name.replace("-", "_")
        if not separator or not values:
            raise UserError(f"space has {entry.strip()!r}: give FIELD=A..B for a range, or FIELD=a|b|c for choices.")
        if name not in HYPERPARAMETERS:
            raise UserError(f"In space: {unknown_parameter(name, HYPERPARAMETERS)}")
        if name in space:
            raise UserError(f"space has {name} twice: give it once, with all of its values.")
        space[name] = _parse_values(name, values)
    return space


def _parse_values(name: str, text: str) -> Range | Choices:
    accepts: Accepts = HYPERPARAMETERS[name].metadata["accepts"]
    if "|" in text or ".." not in text:
        choices = tuple(part.strip() for part in text.split("|"))
        values = [_parse(name, choice, accepts) for choice in choices]
        if len(set(values)) < len(values):
            raise UserError(f"In space: {name}={text} has a value twice: give different ones.")
        return Choices(choices)
    return _parse_range(name, text, accepts)


def _parse_range(name: str, text: str, accepts: Accepts) -> Range:
    default = HYPERPARAMETERS[name].default
    if isinstance(default, (str, bool)):
        raise UserError(f"In space: {name}={text} is no range: give choices with | between, each {accepts.phrase}.")
    low, high = (_parse(name, end, accepts) for end in text.split("..", maxsplit=1))
    if isinstance(high, Ramp):
        if high.start != high.end:
            raise UserError(f"In space: {name}={text} has three numbers: give A..B, or choices with | between.")
        low, high = low.start, high.start
    if not low < high:
        raise UserError(f"In space: {name}={text} is no range: give the smaller number first.")
    if isinstance(low, int):
        _check_steps(name, text, low=low, accepts=accepts)
    return Range(low, high)


def _check_steps(name: str, text: str, *, low: int, accepts: Accepts) -> None:
    """Refuse a range of whole numbers of which not every one is possible."""
    try:
        accepts.parse(str(low + 1))
    except ValueError:
        raise UserError(
            f"In space: {name}={text} has numbers that are not possible: give choices with | between, each "
            f"{accepts.phrase}."
        ) from None


def _parse(name: str, text: str, accepts: Accepts) -> Any:
    try:
        return parse_value(name, text, accepts)
    except UserError as error:
        raise UserError(f"In space: {error}") from None


# ---- of a recipe -----------------------------------------------------------------------------------------------------


def default_space(recipe: Recipe) -> str:
    """Return what is searched where nobody says: learning rates, the penalty's weight and the average's half-life.

    A range is a tenth to ten times the recipe's value. A value that changes during training goes on to do so: what is
    searched is a factor.
    """
    names = ["generator_lr", "ema_half_life"]
    names += ["discriminator_lr"] if recipe.method == "gan" else []
    names += ["penalty_weight"] if recipe.penalty != "none" else []
    entries = {name: _around(name, getattr(recipe, name)) for name in names}
    return ",".join(f"{name}={values}" for name, values in entries.items() if values)


def _around(name: str, value: Ramp) -> str:
    highest = MAX_HALF_LIFE if name == "ema_half_life" else float("inf")
    if value.start == value.end:
        return f"{value.start / 10:.4g}..{min(10 * value.start, highest):.4g}" if value.start > 0 else ""
    scaled = (tuple(min(scale * end, highest) for end in value) for scale in SCALES)
    return "|".join(dict.fromkeys(f"{start:.4g}..{end:.4g}" for start, end in scaled))


def own_values(space: Space, recipe: Recipe) -> dict[str, Any]:
    """Return the point of the space that is nearest to the recipe.

    Returns:
        For a range a number, and for choices a text: the recipe's own value where it is among them, else the first.
    """
    return {name: _nearest(name, values, getattr(recipe, name)) for name, values in space.items()}


def _nearest(name: str, values: Range | Choices, own: Any) -> float | str:
    if isinstance(values, Range):
        return values.nearest(own)
    accepts: Accepts = HYPERPARAMETERS[name].metadata["accepts"]
    return next((text for text in values.texts if accepts.parse(text) == own), values.texts[0])


def texts_at(space: Space, point: Mapping[str, Any]) -> dict[str, str]:
    """Return a point of the space as a user would type it."""
    return {name: text_at(space[name], value) for name, value in point.items()}


def text_at(values: Range | Choices, value: Any) -> str:
    """Return one value of the space as a user would type it."""
    return values.text(value) if isinstance(values, Range) else str(value)


def in_order(space: Space) -> list[str]:
    """Return the names, those that belong to a part of a recipe behind those that decide which parts it has."""
    return sorted(space, key=lambda name: ("part" in HYPERPARAMETERS[name].metadata, list(HYPERPARAMETERS).index(name)))


def has_effect(name: str, recipe: Recipe) -> bool:
    """Return whether a hyperparameter means something in a recipe."""
    part = HYPERPARAMETERS[name].metadata.get("part")
    return part is None or part.is_in(recipe)


def check_space(space: Space, recipe: Recipe) -> None:
    """Refuse a hyperparameter that would change nothing, whatever else the search takes.

    Raises:
        UserError: it belongs to a part that neither the recipe has nor a choice of the space brings in.
    """
    own = override(recipe, **parse_hyperparameters(texts_at(space, own_values(space, recipe))))
    choices = [(name, text) for name, values in space.items() if isinstance(values, Choices) for text in values.texts]
    possible = [own, *(override(own, **parse_hyperparameters({name: text})) for name, text in choices)]
    for name in space:
        if not any(has_effect(name, candidate) for candidate in possible):
            phrase = HYPERPARAMETERS[name].metadata["part"].phrase
            raise UserError(f"In space: {name} changes nothing without {phrase}: give that, too, or leave {name} out.")
