"""Edits of an image: steps along the directions that a generator's file names. Imports no torch."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gan_plugin.errors import UserError, join_names, quoted
from gan_plugin.serving.description import Description, Direction


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
        raise UserError(f"{subject} edit={quoted(value)}: give steps by their directions, as in {example}.")
    step = np.zeros(description.latent_size)
    for name, size in value.items():
        if name not in directions:
            raise UserError(
                f"{subject} an edit of {quoted(name)}, which is unknown: give {join_names(list(directions))}."
            )
        direction = directions[name]
        if not is_step(size, direction):
            bounds = f"{direction.low:.3g} to {direction.high:.3g}"
            raise UserError(f"{subject} an edit of {quoted(name)} by {quoted(size)}: give a number from {bounds}.")
        step += float(size) * np.array(direction.normal)
    return step.astype(np.float32)


def is_step(size: Any, direction: Direction) -> bool:
    """Return whether a step is a number that is sensible along a direction."""
    is_number = isinstance(size, numbers.Real) and not isinstance(size, bool)
    return is_number and direction.low <= size <= direction.high  # which nan is not, nor an integer of any length
