"""Numbers as exact fractions, so that no rounding error can move a frame."""

from __future__ import annotations

from fractions import Fraction
from numbers import Rational

Number = int | float | Fraction
MAX_DENOMINATOR = 1_000_000


def to_fraction(value: Number) -> Fraction:
    """A number as a fraction; whole numbers and fractions keep their exact value.

    A float becomes the nearest fraction with a denominator of at most `MAX_DENOMINATOR`, so that 29.97 and
    30000 / 1001 become the fractions that their writer meant.
    """
    return Fraction(value) if isinstance(value, Rational) else Fraction(value).limit_denominator(MAX_DENOMINATOR)
