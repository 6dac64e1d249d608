"""What is a report made of?  Sections of sentences, tables, figures and thumbnails, all still without any markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cxr.evaluation.words import Estimate

DRAWN = "0\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}1"  # the name of a column of strips on this scale


@dataclass(frozen=True)
class Strip:
    """An interval drawn on a line, for a cell of a table; positions in per cent of its width.

    Args:
        low, value, high: of the interval; without limits only the value is drawn.
        mark: of the baseline, or whatever it is to be compared with.
    """

    low: float | None
    value: float | None
    high: float | None
    mark: float | None


def strip(estimate: Estimate, start: float, end: float, mark: float | None = None) -> Strip | str:
    """The drawing of an estimate on a scale; nothing where there is no value, or no place for it."""
    mark = estimate.baseline if mark is None else mark

    def place(number: float | None) -> float | None:
        return None if number is None else round(100 * min(1.0, max(0.0, (number - start) / (end - start))), 1)

    if estimate.value is None or not start <= estimate.value <= end:
        return ""
    low, high = place(estimate.low), place(estimate.high)
    both = low is not None and high is not None
    return Strip(low if both else None, place(estimate.value), high if both else None, place(mark))


class Number(str):
    """The name of a column that holds numbers, or drawings of them; a plain text names a column of text."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Args:
        caption: what it shows.
        columns: names.
        rows: cells, as many as columns.
        note: below it.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Strip]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure that is embedded.

    Args:
        data: base64 of a PNG file.
        width, height: CSS pixels at which it is read best.
        alt: what it shows, for those who do not see it.
        caption: below it.
        wide: wider than a phone can show at a readable size.
    """

    data: str
    width: int
    height: int
    alt: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Card:
    """One image that was answered wrong, with what is known of it: (term, value) pairs."""

    picture: Picture | None
    terms: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Part:
    """A piece of a section; `folded` is hidden until it is asked for: a heading and tables, or lines of a file."""

    title: str = ""
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    cards: Sequence[Card] = ()
    folded_title: str = ""
    folded_tables: Sequence[Table] = ()
    folded_lines: Sequence[str] = ()

    def __bool__(self) -> bool:
        return any((self.sentences, self.tables, self.pictures, self.cards, self.folded_tables, self.folded_lines))


@dataclass
class Section:
    """A section of the page, left out where no part of it holds anything.

    Args:
        key: its anchor.
        title: its heading.
        lead: one sentence on how to read it.
        parts: what it holds.
        missing: why it, or a piece of it, is not there, a sentence each.
    """

    key: str
    title: str
    lead: str = ""
    parts: list[Part] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, part: Part) -> None:
        if part:
            self.parts.append(part)
