"""What is known of every image, and what became of every row that was read?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
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

# The reason code of a file that is there and gives no picture; the detail says why.
UNREADABLE: Final = "unreadable"
# The reason codes that say that something is wrong with the data. All others are choices (a view that was not asked
# for), other things that lie among the images, or second copies: there is nothing about them to be mended.
BAD_REASONS: Final = frozenset(
    {
        UNREADABLE,
        "folder unreadable",
        "file name is not UTF-8",
        "link out of the root",
        "link cycle",
        "broken link",
        "not a file",
        "ragged row",
        "NUL byte",
        "no file name",
        "outside the folder",
        "file missing",
        "several files",
        "conflicting labels",
        "conflicting patients",
        "conflicting splits",
        "no DICOM preamble",
    }
)

# How folders and tables spell the three splits.
SPLIT_NAMES: Final[Mapping[str, str]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


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
        records: one row per image, columns ``COLUMNS``, in the order of the rows that they were read from.
        dropped: one row per row or file that is not used, columns ``DROPPED_COLUMNS``; rows are numbered from 1.
        rows: how many rows or files were read.
        aliases: pairs of patient ids of this collection that share a picture, and so may be one person.
        notes: what a user should know of the reading, a sentence each.

    Raises:
        ValueError: where kept + dropped != rows, a row is dropped twice, or a column is missing: a reader that loses
            rows is broken.
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
        if not self.dropped["row"].between(1, self.rows).all() or self.dropped["row"].duplicated().any():
            raise ValueError(f"source {self.name!r}: the dropped rows are not distinct numbers from 1 to {self.rows}")

    def drop(self, reasons: Sequence[str | None], details: Sequence[str | None]) -> Collection:
        """The collection without some of its records.

        Args:
            reasons: one per record: why it is not used, or None for a record that stays.
            details: one per record; counts only where there is a reason.
        """
        gone = np.array([reason is not None for reason in reasons], dtype=bool)
        # Records stand in the order of their rows, so theirs are the numbers that no dropped row has.
        numbers = np.setdiff1d(np.arange(1, self.rows + 1), self.dropped["row"].to_numpy())
        more = make_dropped(
            {"source": self.name, "row": numbers[i], "image": image, "reason": reasons[i], "detail": details[i]}
            for i, image in enumerate(self.records["image"])
            if gone[i]
        )
        dropped = pd.concat([self.dropped, more]).sort_values("row", ignore_index=True)
        return replace(self, records=self.records[~gone].reset_index(drop=True), dropped=dropped)


@dataclass(frozen=True)
class Manifest:
    """All records of an experiment, and all that was read and not used.

    Args:
        records: one row per image, columns ``COLUMNS``; the index 0..N-1 is the *record index*.
        dropped: columns ``DROPPED_COLUMNS``.
        sources: rows read, by name of source entry; kept + dropped adds up to each.
        class_names: the classes, in the order that numbers them.
        notes: sentences for the user, each with its source.
    """

    records: pd.DataFrame
    dropped: pd.DataFrame
    sources: Mapping[str, int]
    class_names: list[str]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows or files were read."""
        return sum(self.sources.values())

    def drop(self, gone: NDArray[np.bool_], reason: str, details: Sequence[str | None]) -> Manifest:
        """The manifest without some of its records, which are then accounted for as dropped.

        Args:
            gone: (N,) which.
            reason: why, as a word or two.
            details: (N,) what else is to be known of each; counts only where it goes.
        """
        entries, rows = self._origin()
        images = self.records["image"].tolist()
        more = make_dropped(
            {"source": entries[i], "row": rows[i], "image": images[i], "reason": reason, "detail": details[i]}
            for i in np.flatnonzero(gone).tolist()
        )
        dropped = pd.concat([self.dropped, more], ignore_index=True)
        # In the order of the sources and their rows, whenever it was that each was found to be of no use.
        place = dropped["source"].map({name: number for number, name in enumerate(self.sources)})
        order = np.lexsort((dropped["row"], place))
        return replace(
            self,
            records=self.records[~gone].reset_index(drop=True),
            dropped=dropped.iloc[order].reset_index(drop=True),
        )

    def _origin(self) -> tuple[list[str], list[int]]:
        """Source entry and row number there of each record: they stand in the order of the rows not dropped."""
        entries: list[str] = []
        rows: list[int] = []
        for name, num_rows in self.sources.items():
            dropped = self.dropped.loc[self.dropped["source"] == name, "row"].to_numpy()
            kept = np.setdiff1d(np.arange(1, num_rows + 1), dropped).tolist()
            entries += [name] * len(kept)
            rows += kept
        return entries, rows

    def accounting(self) -> pd.DataFrame:
        """One line per source: ``source``, ``rows``, ``kept``, and a column of counts per reason, commonest first."""
        reasons = self.dropped["reason"].value_counts().index.tolist()
        lines = []
        for name, rows in self.sources.items():
            counts = self.dropped.loc[self.dropped["source"] == name, "reason"].value_counts()
            kept = rows - int(counts.sum())
            lines.append({"source": name, "rows": rows, "kept": kept} | {r: int(counts.get(r, 0)) for r in reasons})
        return pd.DataFrame(lines, columns=["source", "rows", "kept", *reasons])


def combine(collections: Sequence[Collection], class_names: Sequence[str]) -> Manifest:
    """Puts collections together and finds the groups that a split must never divide.

    A group is all that hangs together through the same patient of the same source entry, through patients that the
    source says share a picture, through the same file, or through the same bytes. Where a source gives no patient,
    each image is a patient of its own. A group is called after the first, in alphabetical order, of its
    "source/patient".

    Raises:
        ValueError: where two collections have the same name.
    """
    sources = {collection.name: collection.rows for collection in collections}
    if len(sources) != len(collections):
        raise ValueError(f"two collections have the same name: {[collection.name for collection in collections]}")
    records = _typed(pd.concat([c.records for c in collections], ignore_index=True))
    dropped = pd.concat([c.dropped for c in collections], ignore_index=True)
    # The name of the source entry, not the column `source`: a table may tell several sources apart and still mean one
    # person by one id. To join too much costs a little freedom in the split; to divide a patient costs its honesty.
    patients = [
        f"{collection.name}/{image if patient is None else patient}"
        for collection in collections
        for image, patient in zip(collection.records["image"], collection.records["patient"], strict=True)
    ]
    aliases = [(f"{c.name}/{one}", f"{c.name}/{other}") for c in collections for one, other in c.aliases]
    records["group"] = _groups(patients, list(records["path"]), list(records["sha256"]), aliases)
    notes = tuple(f"{collection.name}: {note}" for collection in collections for note in collection.notes)
    return Manifest(records, dropped, sources, list(class_names), notes)


def _groups(
    patients: Sequence[str], paths: Sequence[str], sha256: Sequence[str | None], aliases: Sequence[tuple[str, str]]
) -> list[str]:
    """The name of the group of every record."""
    nodes: dict[tuple[str, str], int] = {}

    def node(kind: str, name: str) -> int:
        return nodes.setdefault((kind, name), len(nodes))

    edges = [(node("patient", one), node("patient", other)) for one, other in aliases]
    for patient, path, digest in zip(patients, paths, sha256, strict=True):
        edges.append((node("patient", patient), node("path", path)))
        if digest is not None:
            edges.append((node("patient", patient), node("sha256", digest)))
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, components = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for patient in sorted(set(patients)):
        names.setdefault(int(components[nodes["patient", patient]]), patient)
    return [names[int(components[nodes["patient", patient]])] for patient in patients]
