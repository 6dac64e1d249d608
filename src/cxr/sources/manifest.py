"""What is known of every image, and what became of every row that was read?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

COLUMNS: Final = (
    "source",
    "image",
    "path",
    "finding",
    "label",
    "patient",
    "group",
    "view",
    "sex",
    "age",
    "country",
    "predefined_split",
    "sha256",
)
DROPPED_COLUMNS: Final = ("source", "row", "image", "reason", "detail")


def make_records(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """A table of records in the types of a manifest: text as objects with None for what is missing, ages as floats.

    Args:
        rows: one mapping per image, keys out of ``COLUMNS``; what a row does not say is missing.
    """
    return _typed(pd.DataFrame(list(rows), columns=list(COLUMNS), dtype=object))


def make_dropped(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """A table of what is not used, columns ``DROPPED_COLUMNS``; ``row`` is a whole number, the rest is text."""
    frame = pd.DataFrame(list(rows), columns=list(DROPPED_COLUMNS), dtype=object)
    return frame.astype({"row": np.int64})


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    # pandas would infer its own string type, whose missing value is NaN: a float among texts, true in an "if".
    frame = frame.astype(object)
    frame = frame.where(frame.notna(), None)
    return frame.astype({"age": np.float64}).reset_index(drop=True)


@dataclass(frozen=True)
class Collection:
    """What one source holds: the records that it keeps, and the rows that it does not, each with a reason.

    Args:
        name: the name of the source entry.
        records: one row per image, columns ``COLUMNS``.
        dropped: one row per row or file that is not used, columns ``DROPPED_COLUMNS``.
        rows: how many rows or files were read.
        aliases: pairs of patient ids of this collection that share a picture, and so may be one person.
        notes: what a user should know of the reading, a sentence each.

    Raises:
        ValueError: where kept + dropped != rows, or a column is missing: a reader that loses rows is broken.
    """

    name: str
    records: pd.DataFrame
    dropped: pd.DataFrame
    rows: int
    aliases: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.records.columns) != COLUMNS or tuple(self.dropped.columns) != DROPPED_COLUMNS:
            raise ValueError(f"source {self.name!r}: the columns are not those of a manifest")
        if len(self.records) + len(self.dropped) != self.rows:
            raise ValueError(
                f"source {self.name!r}: kept {len(self.records)} + dropped {len(self.dropped)} != rows {self.rows}"
            )
