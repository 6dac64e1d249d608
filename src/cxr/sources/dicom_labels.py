"""Which label does a table give to each DICOM file, whatever it calls the file by?

A row may name its image by the path below the folder, by the file name or by the SOP Instance UID, and the first two
with or without the ending. Several rows of one image are one image: in the table of the RSNA pneumonia challenge (Shih
et al. 2019, "Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of Possible
Pneumonia") each row is a box.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr.errors import DataError
from cxr.sources.cells import composed
from cxr.sources.manifest import SPLIT_NAMES
from cxr.sources.ontology import fold
from cxr.sources.table import no_such_column, read_lines

SUFFIXES: Final = (".dcm", ".dicom", ".dic")


@dataclass(frozen=True)
class Unusable:
    """A row that names no image or is none; ``reason`` is "no file name", "ragged row" or "NUL byte"."""

    row: int
    name: str
    reason: str


@dataclass(frozen=True)
class Label:
    """What the rows of one image say.

    Attributes:
        name: of the image in the table.
        rows: their numbers, from 1.
        finding: None where its cells are empty.
        patient: None where there is no such column, or its cells are empty.
        split: "train", "val", "test" or None.
        reason: why it is of no use ("conflicting labels", "conflicting patients", "conflicting splits"), or None.
    """

    name: str
    rows: tuple[int, ...]
    finding: str | None
    patient: str | None
    split: str | None
    reason: str | None

    @property
    def place(self) -> str:
        """Where it stands in the table."""
        return "row " + ", ".join(map(str, self.rows))


def read_labels(
    source: str, path: Path, *, image: str, label: str, patient: str | None, split: str | None
) -> tuple[dict[str, Label], list[Unusable]]:
    """Read a table of labels.

    Args:
        source: name of the source entry, for the errors.
        path: CSV or parquet.
        image, label, patient, split: names of columns; None: there is none.

    Returns:
        Name of the image in the table, as `names_of` spells it -> what its rows say; and the rows of no use.

    Raises:
        DataError: the table cannot be read, or has no such column.
    """
    if not path.is_file():
        raise DataError(f"source {source!r}: labels={str(path)!r} is not a file; give a CSV or parquet table")
    columns, lines = read_lines(path, image)
    places = {
        key: _place(source, path, key, column, columns)
        for key, column in {"image": image, "label": label, "patient": patient, "split": split}.items()
        if column is not None
    }
    rows: dict[str, list[tuple[int, dict[str, str]]]] = {}
    unusable = []
    for number, line in enumerate(lines, start=1):
        cells = {key: composed(line[place].strip()) if place < len(line) else "" for key, place in places.items()}
        name = _spelled(cells["image"])
        reason = None
        if len(line) < len(columns) or any(cell.strip() for cell in line[len(columns) :]):
            reason = "ragged row"
        elif "\0" in "".join(cells.values()):
            reason = "NUL byte"
        elif not name:
            reason = "no file name"
        if reason is None:
            rows.setdefault(name, []).append((number, cells))
        else:
            unusable.append(Unusable(number, name.replace("\0", "\\0"), reason))
    return {name: _label(name, of_image) for name, of_image in rows.items()}, unusable


def names_of(image: str, instance: str | None) -> list[str]:
    """The names by which a table may call a file: its path below the folder, its name, both without ending, its UID."""
    name = posixpath.basename(image)
    names = [image, _without_ending(image), name, _without_ending(name), *([instance] if instance else [])]
    return list(dict.fromkeys(map(_spelled, names)))


def _place(source: str, path: Path, key: str, column: str, columns: Sequence[str]) -> int:
    column = composed(column)
    if column in columns:
        return list(columns).index(column)
    raise no_such_column(source, path, key, column, columns)


def _label(name: str, rows: Sequence[tuple[int, dict[str, str]]]) -> Label:
    first = rows[0][1]
    reason = next(
        (
            f"conflicting {key}s"
            for key in ("label", "patient", "split")
            if len({fold(cells.get(key, "")) for _, cells in rows}) > 1
        ),
        None,
    )
    return Label(
        name,
        tuple(number for number, _ in rows),
        first["label"] or None,
        first.get("patient") or None,
        SPLIT_NAMES.get(first.get("split", "").casefold()),
        reason,
    )


def _spelled(name: str) -> str:
    return composed(re.sub(r"\A(\./)+", "", name.replace("\\", "/")))


def _without_ending(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)
