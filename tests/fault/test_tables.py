"""Is a table read for what it says, whatever wrote it, and is each row that says nothing usable counted?"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr.errors import ConfigurationError, DataError
from cxr.sources.manifest import Manifest
from cxr.sources.reading import read_sources

pytestmark = pytest.mark.fault

COMPOSED, DECOMPOSED = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
NAMES = ("a.png", "b.png", "c.png", f"{COMPOSED}.png", "naive.png", "scan.nii.gz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / name, "PNG")
    return tmp_path


def read(folder: Path, content: bytes, name: str = "table.csv", **options: Any) -> Manifest:
    (folder / name).write_bytes(content)
    return read_sources(
        {"own": {"kind": "table", "root": name, **options}},
        data_dir=folder,
        cache_dir=folder / "cache",
        keep_unlabelled=True,
        progress=False,
    )


TEXT = f"image,label,patient\na.png,Normal,007\n{COMPOSED}.png,\u00d6dem,M\u00fcller\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        TEXT.encode("cp1252"),
        TEXT.encode("latin-1"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace(",", ";").encode("cp1252"),
        TEXT.replace(",", "\t").encode("utf-16"),
    ],
    ids=lambda content: f"{content[:3].hex()} of {len(content)} bytes",
)
def test_whatever_wrote_it_the_text_is_the_same(folder: Path, content: bytes) -> None:
    records = read(folder, content).records
    assert records[["image", "finding", "patient"]].to_numpy().tolist() == [
        ["a.png", "Normal", "007"],
        [f"{COMPOSED}.png", "\u00d6dem", "M\u00fcller"],
    ]


# One row after a good one, and the reason code of what becomes of it.
ROWS: dict[str, tuple[bytes, str]] = {
    "NUL in the name": (b"b\0.png,x,1", "NUL byte"),
    "NUL in the label": (b"b.png,x\0y,1", "NUL byte"),
    "NUL in the patient": (b"b.png,x,\0", "NUL byte"),
    "too few cells": (b"b.png,x", "ragged row"),
    "too many cells": (b"b.png,x,1,more", "ragged row"),
    "no name": (b",x,1", "no file name"),
    "a name of blanks": (b"   ,x,1", "no file name"),
    "no such file": (b"gone.png,x,1", "file missing"),
    "a name too long for any disk": (b"n" * 5000 + b".png,x,1", "file missing"),
    "a folder": (b"cache,x,1", "file missing"),
    "bytes of another encoding": (b"na\xefve.png,x,1", "file missing"),
    "above the folder": (b"../b.png,x,1", "outside the folder"),
    "the root of the disk": (b"/b.png,x,1", "outside the folder"),
    "a volume": (b"scan.nii.gz,x,1", "volume"),
    "the same file, the same label": (b"a.png,Normal,1", "repeated file"),
    "the same file by another way": (b"./a.png,Normal,1", "repeated file"),
    "the same file, the label in capitals": (b"a.png,NORMAL,1", "repeated file"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_no_use_is_counted_with_its_reason(folder: Path, name: str) -> None:
    row, reason = ROWS[name]
    manifest = read(folder, b"image,label,patient\na.png,Normal,7\n" + row + b"\nc.png,Normal,8\n")
    assert manifest.records["image"].tolist() == ["a.png", "c.png"]
    assert manifest.dropped[["row", "reason"]].to_numpy().tolist() == [[2, reason]]
    assert manifest.rows == 3


@pytest.mark.parametrize(
    "other",
    ["a.png,Pneumonia,7", "./a.png,Pneumonia,9", "a.png,,7", f"{DECOMPOSED}.png,Pneumonia,7"],
    ids=["another label", "another label and patient", "no label", "another spelling"],
)
def test_a_file_with_two_labels_has_none(folder: Path, other: str) -> None:
    first = f"{COMPOSED}.png" if "gr" in other else "a.png"
    manifest = read(folder, f"image,label,patient\n{first},Normal,7\nb.png,Normal,8\n{other}\n".encode())
    assert manifest.records["image"].tolist() == ["b.png"]
    assert manifest.dropped[["row", "reason"]].to_numpy().tolist() == [
        [1, "conflicting labels"],
        [3, "conflicting labels"],
    ]
    assert "row 1: Normal; row 3: " in manifest.dropped["detail"][0]


# The bytes of a table, and what the one line says.
UNUSABLE: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "empty": (b"", {}, "the table is empty"),
    "nothing but a mark": (codecs.BOM_UTF8, {}, "the table is empty"),
    "nothing but blank lines": (b"\n\n  \n", {}, "the table is empty"),
    "no column of images": (b"file,label\na.png,x\n", {}, "no column image='image'; there are: file, label"),
    "almost a column of images": (b"Image ,label\na.png,x\n", {}, "did you mean 'Image'"),
    "almost a column that was asked for": (
        b"image,Finding Labels\na.png,x\n",
        {"label": "Finding_Labels"},
        "no column label='Finding_Labels'; did you mean 'Finding Labels'",
    ),
    "a quotation mark that is never closed": (
        b'image,label\na.png,x\nb.png,"y\nc.png,z\n',
        {},
        "row in line 3 is never closed",
    ),
    "half of UTF-16": (TEXT.encode("utf-16")[:-1], {}, "is no table of separated values"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, {}, "no column|no table|never closed"),
    "a row without end": (b"image,label\n" + b"a" * 200_000, {}, "is no table of separated values"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_table_ends_with_one_line_that_names_it(folder: Path, name: str) -> None:
    content, options, words = UNUSABLE[name]
    with pytest.raises(DataError, match=words) as caught:
        read(folder, content, **options)
    assert "table.csv" in str(caught.value)


def test_a_table_of_absurd_size_is_not_even_opened(folder: Path) -> None:
    (folder / "table.csv").write_bytes(b"image,label\n")
    with (folder / "table.csv").open("ab") as file:
        file.truncate(40 << 30)
    with pytest.raises(DataError, match="no table of radiographs"):
        read_sources(
            {"own": {"kind": "table", "root": "table.csv"}}, data_dir=folder, cache_dir=folder / "cache", progress=False
        )


def test_a_parquet_file_of_a_thousand_million_rows_is_not_unpacked(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    block = pa.table({"image": pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 20, np.int8)), ["a.png"])})
    with parquet.ParquetWriter(folder / "table.parquet", block.schema) as writer:
        for _ in range(12):
            writer.write_table(block)
    assert (folder / "table.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match="12582912 rows are no table of radiographs"):
        read_sources(
            {"own": {"kind": "table", "root": "table.parquet"}},
            data_dir=folder,
            cache_dir=folder / "cache",
            progress=False,
        )


@pytest.mark.parametrize("written", [f"{COMPOSED}.png", f"{DECOMPOSED}.png", COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED], ids=["composed", "decomposed"])
def test_accents_may_be_part_of_their_letters_or_apart(tmp_path: Path, on_disk: str, written: str) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{on_disk}.png")
    header = "image,Diagn\u00f4se,patient\n" if written == COMPOSED else "image,Diagno\u0302se,patient\n"
    rows = f"{written},Normal,{COMPOSED}\n{written},normal,{DECOMPOSED}\n"
    manifest = read(tmp_path, (header + rows).encode(), label="Diagno\u0302se")
    assert manifest.records["image"].tolist() == [f"{on_disk}.png"]
    assert manifest.records["patient"].tolist() == [COMPOSED]
    assert manifest.dropped["reason"].tolist() == ["repeated file"]


def test_one_patient_in_two_spellings_is_one_group(folder: Path) -> None:
    rows = f"a.png,Normal,{COMPOSED}\nb.png,Normal,{DECOMPOSED}\nc.png,Normal,another\n"
    groups = read(folder, f"image,label,patient\n{rows}".encode()).records["group"].tolist()
    assert groups[0] == groups[1] != groups[2]


def test_a_column_that_is_there_twice_is_told(folder: Path) -> None:
    manifest = read(folder, b"image,label,label\na.png,Normal,Pneumonia\n")
    assert manifest.records["finding"].tolist() == ["Normal"]
    assert any("'label' stands 2 times; the first counts" in note for note in manifest.notes)


def test_the_column_of_images_cannot_be_left_out(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="image=None"):
        read(folder, TEXT.encode(), image=None)
