"""What does a table of radiographs say, a CSV or parquet file with a row for each image?"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cxr.errors import ConfigurationError, DataError
from cxr.sources.cells import (
    IMAGE_SUFFIXES,
    SEXES,
    VIEWS,
    VOLUME_SUFFIXES,
    composed,
    decode,
    parse_age,
    spellings,
)
from cxr.sources.links import Root
from cxr.sources.manifest import SPLIT_NAMES, Collection, make_dropped, make_records
from cxr.sources.ontology import fold
from cxr.sources.patient_patterns import compile_patient_pattern

SEPARATORS: Final = (",", ";", "\t")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
# No table of radiographs comes near; a file that was never one, or was made to fill the memory, does.
MAX_BYTES: Final = 512 << 20
MAX_ROWS: Final = 10_000_000
# The names that columns have where nothing else is asked for. These may be absent; a column that was asked for may not.
DEFAULT_COLUMNS: Final = {
    "image": "image",
    "label": "label",
    "patient": "patient",
    "view": "view",
    "sex": "sex",
    "age": "age",
    "split": "split",
    "table_source": "source",
}


def read(
    name: str,
    root: str | Path,
    *,
    images: str | Path | None = None,
    image: str = "image",
    label: str | None = "label",
    patient: str | None = "patient",
    view: str | None = "view",
    sex: str | None = "sex",
    age: str | None = "age",
    split: str | None = "split",
    table_source: str | None = "source",
    patient_pattern: str | None = None,
) -> Collection:
    """Reads a table with a header and a row for each image.

    CSV may be UTF-8, UTF-16, UTF-32 or Windows-1252, with or without a byte-order mark, separated by commas, semicolons
    or tabs. Every cell is text: the patient '007' is not '7'. Composed and decomposed Unicode are one spelling, of
    columns, labels, patients and files. An image may be named without its ending, as collections do that list an
    identifier only: the file is the one that has an ending of images. Dropped, each with its reason: ``ragged row``,
    ``NUL byte``, ``no file name``, ``outside the folder``, ``link out of the root``, ``file missing``, ``volume``,
    ``several files`` (of a name without its ending), ``conflicting labels`` (one file under several labels: none of its
    rows is kept), ``repeated file`` (a file listed again with the same label: its first row is kept). Patients that
    list the same file are the collection's ``aliases``. Empty lines are no rows.

    Args:
        name: name of the source entry.
        root: the table: .parquet or .pq (needs the extra ``parquet``), or CSV whatever it is called.
        images: the folder that image names are relative to; relative itself, it is so to the folder of the table.
            None: the folder of the table.
        image, label, patient, view, sex, age, split, table_source: names of the columns. Only ``image`` must exist;
            None says that there is no such column. A row without a label is unlabelled. Ages read as '45', '45.0' or
            as in DICOM ('045Y', '018M'). Splits are train, val and test in the usual spellings. Where ``table_source``
            exists, a record's source is "name/value"; one patient id is still one patient.
        patient_pattern: a regular expression that a whole cell of ``patient`` fits; its first group is the patient, for
            ids that also count the visits of a person. A cell that does not fit is the patient as it stands, and these
            are counted. None: every cell is.

    Raises:
        ConfigurationError: a column that was asked for has no text for a name, or the column of images is None, or
            ``patient_pattern`` is no regular expression with a group.
        DataError: the table cannot be read, is larger than ``MAX_BYTES`` or ``MAX_ROWS``, has a quotation mark that is
            never closed, or lacks a column that was asked for.
    """
    wanted = {
        "image": image,
        "label": label,
        "patient": patient,
        "view": view,
        "sex": sex,
        "age": age,
        "split": split,
        "table_source": table_source,
    }
    for key, column in wanted.items():
        if (column is None and key == "image") or (column is not None and not isinstance(column, str)):
            raise ConfigurationError(f"source {name!r}: {key}={column!r} is not the name of a column")
    pattern = None if patient_pattern is None else compile_patient_pattern(name, "patient_pattern", patient_pattern)
    path = Path(root)
    if not path.is_file():
        raise DataError(f"source {name!r}: root={str(root)!r} is not a file; give a CSV or parquet table")
    folder = path.absolute().parent if images is None else path.absolute().parent / images
    if not folder.is_dir():
        raise DataError(f"source {name!r}: images: there is no folder {folder}")
    columns, lines = read_lines(path, image)
    wanted = {key: column if column is None else composed(column) for key, column in wanted.items()}
    places, notes = _places(name, path, wanted, columns)
    root_of_images = Root(folder)
    rows = [
        _row(number, cells, len(columns), places, folder, root_of_images) for number, cells in enumerate(lines, start=1)
    ]
    if pattern is not None:
        rows, num_unlike = _with_patients(rows, pattern)
        if num_unlike:
            notes.append(
                f"{num_unlike} of {len(rows)} rows: the patient does not fit patient_pattern={patient_pattern!r} "
                "and is taken as it stands"
            )

    kept, dropped = _without_repetitions(name, rows)
    strange = {row.cells["split"] for row in kept if row.cells["split"] and row.split is None}
    if strange:
        notes.append(f"column {split!r}: {sorted(strange)[:5]} is none of train, val, test, and counts as not given")
    records = make_records(_record(name, folder, row) for row in kept)
    return Collection(name, records, make_dropped(dropped), len(rows), _aliases(rows), tuple(notes))


@dataclass(frozen=True)
class _Row:
    """A row; ``cells`` by the option that names their column ('' where there is none); ``reason`` why it is no use."""

    number: int
    cells: Mapping[str, str]
    image: str | None
    reason: str | None
    detail: str | None

    @property
    def split(self) -> str | None:
        return SPLIT_NAMES.get(self.cells["split"].casefold())


def read_lines(path: Path, image: str) -> tuple[list[str], list[list[str]]]:
    """The names of the columns of a table without blanks around them, accents composed, and its rows of cells as text.

    Args:
        path: .parquet or .pq, or CSV whatever it is called.
        image: the column of images, by which the separator of a CSV is known.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    is_parquet = path.suffix.lower() in PARQUET_SUFFIXES
    columns, lines = _read_parquet(path) if is_parquet else _read_csv(path, composed(image))
    return [composed(column.strip()) for column in columns], lines


def _read_csv(path: Path, image: str) -> tuple[list[str], list[list[str]]]:
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_BYTES:
            raise DataError(f"{path}: {num_bytes} bytes are no table of radiographs; the limit is {MAX_BYTES}")
        text = _decode(path.read_bytes())
        first = next((line for line in text.splitlines() if line.strip()), "")
        headers = {separator: next(csv.reader([first], delimiter=separator), []) for separator in SEPARATORS}
        # The separator under which the column of images appears; failing that, the one that makes most columns.
        separator = max(SEPARATORS, key=lambda s: (image in map(composed, map(str.strip, headers[s])), len(headers[s])))
        lines = _lines(text, separator, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: is no table of separated values ({error})") from error
    if not lines:
        raise DataError(f"{path}: the table is empty; its first line must name the columns")
    return lines[0], lines[1:]


def _lines(text: str, separator: str, path: Path) -> list[list[str]]:
    """The cells of all rows that are not empty."""
    # A quotation mark that is never closed makes one cell of all that follows, and its rows would be lost uncounted:
    # then a last line of our own does not come out as one.
    end = "\x1fend of the table\x1f"
    reader = csv.reader(io.StringIO(f"{text}\n{end}", newline=""), delimiter=separator)
    lines, begins, last = [], 0, 0
    for cells in reader:
        begins, last = last + 1, reader.line_num
        lines.append(cells)
    if lines.pop() != [end]:
        raise DataError(f"{path}: a quotation mark of the row in line {begins} is never closed; close or double it")
    return [cells for cells in lines if any(cell.strip() for cell in cells)]


def _decode(content: bytes) -> str:
    """As ``decode``, and UTF-16 without its mark, which shows by every other byte of a Latin text being zero."""
    start = content[:4096]
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = start[offset::2].count(0)
        if zeros > 0.5 * len(start[offset::2]) and not marked:
            return content.decode(encoding)
    return decode(content)


def _read_parquet(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{path}: reading parquet needs pyarrow: uv sync --extra parquet, or use CSV") from error
    try:
        # The rows that the file claims, before they are unpacked: a thousand million equal ones take some kilobytes.
        num_rows = parquet.read_metadata(path).num_rows
        if num_rows > MAX_ROWS:
            raise DataError(f"{path}: {num_rows} rows are no table of radiographs; the limit is {MAX_ROWS}")
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: is no parquet file ({' '.join(str(error).split())[:120]})") from error
    columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
    return [str(column) for column in table.column_names], [list(row) for row in zip(*columns, strict=True)]


def _cell(value: object) -> str:
    """Text of a typed value; a whole float is an integer that met a missing value on its way."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _places(
    name: str, path: Path, wanted: Mapping[str, str | None], columns: Sequence[str]
) -> tuple[dict[str, int], list[str]]:
    """The place of every column that is there; and what to tell of the table."""
    places, notes = {}, []
    for key, column in wanted.items():
        if column in columns:
            places[key] = columns.index(column)
            if columns.count(column) > 1:
                notes.append(f"the column {column!r} stands {columns.count(column)} times; the first counts")
        elif column is not None and (key == "image" or column != DEFAULT_COLUMNS[key]):
            raise no_such_column(name, path, key, column, columns)
    if "label" not in places:
        notes.append(f"no column of labels: every image is unlabelled (columns: {', '.join(columns[:20])})")
    if "patient" not in places:
        notes.append("no column of patients: every image counts as a patient of its own")
    return places, notes


def no_such_column(source: str, path: Path, key: str, column: str, columns: Sequence[str]) -> DataError:
    """What to say of a column that was asked for under a key and is not there, with the nearest that is."""
    folded = {c.casefold(): c for c in columns}
    nearest = difflib.get_close_matches(column.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[nearest[0]]!r}?" if nearest else f"there are: {', '.join(columns[:20])}"
    return DataError(f"source {source!r}: {path} has no column {key}={column!r}; {hint}")


def _row(
    number: int, line: Sequence[str], num_columns: int, places: Mapping[str, int], folder: Path, root: Root
) -> _Row:
    if len(line) < num_columns or any(cell.strip() for cell in line[num_columns:]):
        cells = dict.fromkeys(DEFAULT_COLUMNS, "")
        return _Row(number, cells, None, "ragged row", f"{len(line)} cells under {num_columns} columns")
    cells = {key: composed(line[places[key]].strip()) if key in places else "" for key in DEFAULT_COLUMNS}
    written = line[places["image"]]
    if any("\0" in cell for cell in (*cells.values(), written)):
        shown = {key: cell.replace("\0", "\\0") for key, cell in cells.items()}
        return _Row(number, dict.fromkeys(cells, ""), shown["image"], "NUL byte", None)
    if not cells["image"]:
        return _Row(number, cells, None, "no file name", None)
    found: dict[str, None] = {}
    for spelling in spellings(written):
        image = _relative(spelling, folder)
        if image is None:
            return _Row(number, cells, cells["image"], "outside the folder", str(folder))
        # Not Path.is_file: that raises where a name is longer than the file system takes.
        if os.path.isfile(folder / image):  # noqa: PTH113
            return _Row(number, cells, image, *_unfit(image, folder, root))
        found |= dict.fromkeys(_with_ending(image, folder))
    if len(found) > 1:
        return _Row(number, cells, cells["image"], "several files", ", ".join(found))
    if not found:
        return _Row(number, cells, _relative(cells["image"], folder), "file missing", None)
    image = next(iter(found))
    return _Row(number, cells, image, *_unfit(image, folder, root))


def _unfit(image: str, folder: Path, root: Root) -> tuple[str | None, str | None]:
    """Why a file that is there is not used, and the detail."""
    path = os.path.join(folder, image)  # noqa: PTH118 - a Path for each of a million files costs more than the look
    if not root.holds(path):
        return "link out of the root", os.path.realpath(path)
    return ("volume", None) if image.lower().endswith(VOLUME_SUFFIXES) else (None, None)


def _with_ending(image: str, folder: Path) -> list[str]:
    """The files that a name without an ending may mean."""
    suffixes = (*IMAGE_SUFFIXES, ".dcm")
    if image.lower().endswith(suffixes):
        return []
    endings = (ending for suffix in suffixes for ending in (suffix, suffix.upper()))
    return [f"{image}{ending}" for ending in endings if os.path.isfile(folder / f"{image}{ending}")]  # noqa: PTH113


def _with_patients(rows: Sequence[_Row], pattern: re.Pattern[str]) -> tuple[list[_Row], int]:
    """The rows with the patients that a pattern finds in their ids, and how many ids do not fit it."""
    found, num_unlike = [], 0
    for row in rows:
        written = row.cells["patient"]
        match = pattern.fullmatch(written)
        fits = match is not None and bool(match[1])
        num_unlike += bool(written) and not fits
        found.append(replace(row, cells={**row.cells, "patient": match[1] if match is not None and fits else written}))
    return found, num_unlike


def _relative(text: str, folder: Path) -> str | None:
    """An image name as a path relative to the folder; None where it leads out of it."""
    if "\\" in text and not os.path.isfile(folder / text):  # noqa: PTH113 - as above
        text = text.replace("\\", "/")
    image = posixpath.normpath(text)
    if posixpath.isabs(image):
        base = posixpath.normpath(folder.as_posix())
        if not image.startswith(f"{base}/"):
            return None
        image = posixpath.relpath(image, base)
    return None if image == ".." or image.startswith("../") or re.match(r"[A-Za-z]:/", image) else image


def _without_repetitions(name: str, rows: Sequence[_Row]) -> tuple[list[_Row], list[dict[str, object]]]:
    listed: dict[str, list[_Row]] = {}
    for row in rows:
        if row.reason is None and row.image is not None:
            listed.setdefault(row.image, []).append(row)
    kept, dropped = [], []
    for row in rows:
        reason, detail = row.reason, row.detail
        same = listed.get(row.image, []) if row.image is not None else []
        if reason is None and len({fold(other.cells["label"]) for other in same}) > 1:
            reason, detail = "conflicting labels", "; ".join(f"row {o.number}: {o.cells['label']}" for o in same)
        elif reason is None and same[0] is not row:
            reason, detail = "repeated file", f"kept as row {same[0].number}"
        if reason is None:
            kept.append(row)
        else:
            dropped.append({"source": name, "row": row.number, "image": row.image, "reason": reason, "detail": detail})
    return kept, dropped


def _aliases(rows: Sequence[_Row]) -> tuple[tuple[str, str], ...]:
    """Pairs of patients that list one and the same file."""
    owners: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.image is not None and row.cells["patient"]:
            owners.setdefault(row.image, {})[row.cells["patient"]] = None
    pairs = {(first, other): None for first, *others in map(list, owners.values()) for other in others}
    return tuple(pairs)


def _record(name: str, folder: Path, row: _Row) -> dict[str, object]:
    cells = row.cells
    view = cells["view"] if cells["view"] != "?" else ""
    return {
        "source": f"{name}/{cells['table_source']}" if cells["table_source"] else name,
        "image": row.image,
        "path": str(folder / str(row.image)),
        "finding": cells["label"] or None,
        "patient": cells["patient"] or None,
        "view": VIEWS.get(fold(view), view) or None,
        "sex": SEXES.get(cells["sex"].casefold()),
        "age": parse_age(cells["age"]),
        "predefined_split": row.split,
    }
