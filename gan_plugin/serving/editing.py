"""Edits of an image: steps along the directions that a generator's file names. Imports no torch."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gan_plugin.errors import UserError
from gan_plugin.serving.description import Description, Direction

MAX_NAMED = 20  # directions in a sentence
MAX_TEXT = 40  # characters of a value in one


def read_edit(value: Any, subject: str, description: Description) -> npt.NDArray[np.float32]:
    """Return the step in z, float32 [latent_size], of an edit such as ``{"thickness": 1.5}``.

    Args:
        value: steps by the names of directions, in z's own measure.
        subject: of the sentence, such as "Row 0 has".
        description: whose directions there are.

    Raises:
        UserError: it is no such mapping, names an unknown direction, or a step is beyond what is sensible.
    """
    directions = {direction.name: direction for direction in description.directions}
    if not directions:
        raise UserError(f"{subject} an edit, and this generator's file names no directions: leave edit out.")
    if not isinstance(value, Mapping) or not value:
        example = f'{{"{next(iter(directions))}": 1.0}}'
        raise UserError(f"{subject} edit={short(value)}: give steps by their directions, as in {example}.")
    step = np.zeros(description.latent_size)
    for name, size in value.items():
        if name not in directions:
            known = named(description.directions)
            raise UserError(f"{subject} an edit of {short(name)}, which is unknown: give {known}.")
        direction = directions[name]
        if not is_step(size, direction):
            bounds = f"{direction.low:.3g} to {direction.high:.3g}"
            raise UserError(f"{subject} an edit of {short(name)} by {short(size)}: give a number from {bounds}.")
        step += float(size) * np.array(direction.normal)
    return step.astype(np.float32)


def short(value: Any) -> str:
    """Return a value as it was written, cut where it is too long for a sentence."""
    return repr(value)[:MAX_TEXT]


def is_step(size: Any, direction: Direction) -> bool:
    """Return whether a step is a number that is sensible along a direction."""
    if isinstance(size, bool) or not isinstance(size, numbers.Real) or not math.isfinite(size):
        return False
    return direction.low <= float(size) <= direction.high


def named(directions: Sequence[Direction]) -> str:
    """Return the names of the first directions, for a sentence."""
    names = ", ".join(direction.name for direction in directions[:MAX_NAMED])
    return names if len(directions) <= MAX_NAMED else f"{names}, … ({len(directions):,} in all)"
