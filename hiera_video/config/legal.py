"""What a config key is, and the usual kinds of legal values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Legal:
    """Which values a key may take: a sentence for people and a predicate."""

    text: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Key:
    """One config key."""

    default: Any
    meaning: str
    legal: Legal


def at_least(low: float) -> Legal:
    """Numbers from ``low`` on."""
    return Legal(f"a number >= {low}", lambda value: value >= low)


def between(low: float, high: float) -> Legal:
    """Numbers from ``low`` to ``high``."""
    return Legal(f"a number in [{low}, {high}]", lambda value: low <= value <= high)


def one_of(*values: str) -> Legal:
    """These words."""
    return Legal("one of " + ", ".join(repr(value) for value in values), lambda value: value in values)


def numbers(count: int, *, or_empty: bool = False) -> Legal:
    """Lists of ``count`` numbers."""

    def accepts(values: Any) -> bool:
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return numbers and (len(values) == count or (or_empty and not values))

    return Legal(f"a list of {count} numbers" + (" or []" if or_empty else ""), accepts)


ANY_BOOL = Legal("True or False", lambda value: True)
ANY_STR = Legal("any text", lambda value: True)
TEXTS = Legal("a list of texts", lambda values: all(isinstance(value, str) for value in values))
ANY_LIST = Legal("a list of numbers", lambda values: all(isinstance(value, int | float) for value in values))
ASCENDING = Legal("a list of two numbers, the smaller first", lambda v: len(v) == 2 and 0 < v[0] <= v[1])
ASCENDING_OR_EMPTY = Legal("[] or a list of two numbers, the smaller first", lambda v: not v or ASCENDING.accepts(v))
