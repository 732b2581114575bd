"""Values that change during training. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Ramp(NamedTuple):
    """A value that goes from ``start`` to ``end`` along half a cosine, then stays there. Huang et al. 2024."""

    start: float
    end: float

    def at(self, annealed: float) -> float:
        """Return v(t) = v₁ + (v₀ − v₁)·½(1 + cos π t) at t = ``annealed``, 0…1.

        >>> Ramp(2.0, 1.0).at(0.5)
        1.5
        """
        if annealed >= 1 or self.start == self.end:
            return self.end
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * annealed))

    def __str__(self) -> str:
        return f"{self.start}" if self.start == self.end else f"{self.start}..{self.end}"


def parse_ramp(value: str | float, parse: Callable[[str], float] = float) -> Ramp:
    """Parse ``A..B``, or one number for both ends; ``parse`` reads an end.

    >>> parse_ramp("1..0.1"), parse_ramp(3)
    (Ramp(start=1.0, end=0.1), Ramp(start=3.0, end=3.0))

    Raises:
        ValueError: an end is not what ``parse`` takes.
    """
    start, separator, end = str(value).partition("..")
    return Ramp(parse(start), parse(end if separator else start))


def lazy(every: int) -> float:
    """Return c = k/(k + 1), which corrects lr and the powers of β where a penalty comes at every k-th step only.

    Karras et al. 2020, arXiv:1912.04958, appendix B. A penalty at every step needs no correction.
    """
    return 1.0 if every == 1 else every / (every + 1)
