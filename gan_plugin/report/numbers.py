"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

DASH = "—"
TO_EXPONENT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_known(value: float | None) -> TypeGuard[float]:
    """Return whether a number is neither missing nor the result of a division by zero."""
    return value is not None and bool(np.isfinite(value))


def number(value: float | None, like: float | None = None) -> str:
    """Format with three significant digits, or as many decimal places as ``like`` has then; a dash for a missing one.

    >>> number(12.345), number(0.012345), number(12345.6), number(0.000012345), number(-0.5, like=12.3), number(None)
    ('12.3', '0.0123', '12,346', '1.23×10⁻⁵', '−0.5', '—')
    """
    if not is_known(value):
        return DASH
    size = abs(value) if like is None else like
    if size and not 1e-4 <= size < 1e6:
        exponent = math.floor(math.log10(size))
        return f"{fixed(value / 10.0**exponent, 2)}×10{str(exponent).translate(TO_EXPONENT)}"
    return fixed(value, places(size))


def fixed(value: float, decimals: int) -> str:
    """Format with a minus sign as wide as a digit, and none before a zero."""
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "−" if any(character in text for character in "123456789") else "")


def places(size: float) -> int:
    """Return the decimal places that show three significant digits of ``size``, 2 for 0.

    >>> places(123), places(9.996), places(9.99), places(0.05)
    (0, 1, 2, 4)
    """
    return max(0, 2 - int(f"{size:.2e}".split("e")[1]))


def column(values: Sequence[float | None], like: Sequence[float | None]) -> list[str]:
    """Format numbers that stand below one another, with the decimal places that the middle one of ``like`` needs."""
    decimals = places(middle(like))
    return [fixed(value, decimals) if is_known(value) else DASH for value in values]


def middle(values: Sequence[float | None]) -> float:
    """Return the median magnitude of the numbers that are not 0, at least 0.0001; 0 without any."""
    sizes = [abs(value) for value in values if is_known(value) and value]
    return max(float(np.median(sizes)), 0.01) if sizes else 0.0


def percent(shares: Sequence[float | None], like: Sequence[float | None]) -> list[str]:
    """Format a column of shares 0…1 as percentages."""
    values, sizes = (
        [100 * fraction if is_known(fraction) else None for fraction in numbers] for numbers in (shares, like)
    )
    return [text if text == DASH else f"{text} %" for text in column(values, sizes)]
