"""Which values may a search try, and which of them belong together?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Value = str | int | float
MAX_ENUMERATED = 100_000  # combinations that are counted; a larger space is treated as one without an end


@dataclass(frozen=True)
class Dimension:
    """The values of one key.

    Attributes:
        name: the key, as an override names it.
        kind: 'choice' (of texts, as they would be typed), 'int' or 'float'.
        choices: of a 'choice', in their order.
        low, high: limits of numbers, both included.
        step: distance of neighbouring numbers; None for none (a 'float'), or 1 (an 'int').
        log: whether numbers are spread evenly by their logarithm.
        when: other keys, and the choices of theirs with which this one is searched; empty: always.
    """

    name: str
    kind: Literal["choice", "int", "float"]
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    when: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def values(self) -> list[Value] | None:
        """All values; None where there is no end of them."""
        if self.kind == "choice":
            return list(self.choices)
        if self.kind == "int":
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is None:
            return None
        return [self.low + place * self.step for place in range(math.floor((self.high - self.low) / self.step + 1.5))]

    def applies(self, chosen: Mapping[str, Any]) -> bool:
        """Whether the key is searched, given the values of those before it."""
        return all(chosen.get(other) in values for other, values in self.when)


@dataclass(frozen=True)
class Space:
    """What is searched; a key stands after those that it depends on."""

    dimensions: tuple[Dimension, ...]

    @property
    def is_conditional(self) -> bool:
        return any(dimension.when for dimension in self.dimensions)

    @property
    def endless(self) -> list[str]:
        """Keys that have no end of values."""
        return [dimension.name for dimension in self.dimensions if dimension.values() is None]

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Every combination once, the first key varying slowest.

        Raises:
            ValueError: there is no end of them.
        """
        if self.endless:
            raise ValueError(f"no end of values: {', '.join(self.endless)}")
        partial: list[dict[str, Value]] = [{}]
        for dimension in self.dimensions:
            values = dimension.values() or []
            partial = list(
                itertools.chain.from_iterable(
                    [{**chosen, dimension.name: value} for value in values] if dimension.applies(chosen) else [chosen]
                    for chosen in partial
                )
            )
        yield from partial

    @property
    def is_countable(self) -> bool:
        """Whether all combinations can be gone through."""
        if self.endless:
            return False
        return math.prod(len(dimension.values() or []) for dimension in self.dimensions) <= MAX_ENUMERATED


def in_order(dimensions: Sequence[Dimension]) -> Space:
    """A space in which each key stands after those that it depends on.

    Raises:
        ValueError: keys depend on each other in a circle; the text names them.
    """
    left, placed = list(dimensions), list[Dimension]()
    while left:
        names = {dimension.name for dimension in left}
        ready = [dimension for dimension in left if not names & {other for other, _ in dimension.when}]
        if not ready:
            raise ValueError(", ".join(sorted(names)))
        placed += ready
        left = [dimension for dimension in left if dimension not in ready]
    return Space(tuple(placed))


def as_word(value: Value) -> str:
    """A value as it stands in an override: no digit of a number is lost."""
    return value if isinstance(value, str) else repr(value)


def as_label(value: Value) -> str:
    """A value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
