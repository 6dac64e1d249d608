"""Does a file of any name go through a split and its table, and back, without becoming another?"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.pipeline.datamodule import CXRDataModule
from cxr.report import report_data
from cxr.sources.spreadsheet import restored

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take all of these names"),
]

NAMES = (
    "two words",
    " blank before",
    "a,comma",
    'a "quoted" word',
    "it's",
    "two\nlines",
    "carriage\rreturn",
    "tab\tbetween",
    "semi;colon",
    ";=1+1",
    "x\n=1+1",
    "=1+1",
    "+1",
    "-1",
    "@sum",
    "\t=1",
    "\uff1d1+1",
    "'=1",
    "''plain",
    "007",
    "1e5",
    "nan",
    "NULL",
    "#comment",
    "%41",
    "<b>bold",
    "[red]x",
    "{{ 7*7 }}",
    "${oc.env:HOME}",
    "\x1b[31mred",
    "\u202egnp.x",
    "gr\u00f6\u00dfe",
    "gro\u0308\u00dfe",
    "\u80ba",
    "\U0001fac1",
    "back\\slash",
    "n" * 200,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each name in two classes, whose folders are no plain words either, and a name that is no text."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("names") / 'it\'s, a "root"'
    for label in ("=covid;+x", "other, well"):
        (folder / label).mkdir(parents=True)
        for name in NAMES:
            pixels = rng.integers(0, 256, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{name}.png", "PNG")
        (folder / label / "=damaged\n;+1.png").write_bytes(b"no picture")
        Path(os.fsdecode(os.fsencode(folder / label) + b"/caf\xe9.png")).write_bytes(b"no picture")
    return folder


def read(folder: Path, **options: Any) -> CXRDataModule:
    data = CXRDataModule(
        {"=own": {"kind": "class_folders", "root": str(folder), "patient": "none"}},
        cache_dir=folder.parent / "cache",
        image_size=16,
        max_unreadable=0.5,
        look_for_copies=False,
        progress=False,
        **options,
    )
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def written(folder: Path) -> tuple[CXRDataModule, Path, Path]:
    data = read(folder, split={"seed": 3, "val_fraction": 0.3, "test_fraction": 0.3})
    split, dropped = folder.parent / "split.csv", folder.parent / "dropped.csv"
    report_data(split.parent, data)
    return data, split, dropped


@pytest.fixture(scope="module")
def given_back(folder: Path, written: tuple[CXRDataModule, Path, Path]) -> CXRDataModule:
    return read(folder, split={"kind": "file", "path": str(written[1])})


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_found_again_by_the_split_that_was_written(
    written: tuple[CXRDataModule, Path, Path], given_back: CXRDataModule, name: str
) -> None:
    for label in ("=covid;+x", "other, well"):
        rows = [
            each.records.loc[each.records["image"] == f"{label}/{name}.png", ["label", "split", "sha256", "group"]]
            for each in (written[0], given_back)
        ]
        assert len(rows[0]) == 1
        assert rows[0].to_numpy().tolist() == rows[1].to_numpy().tolist()


def test_no_cell_of_the_tables_starts_a_formula(written: tuple[CXRDataModule, Path, Path]) -> None:
    for path in written[1:]:
        content = path.read_text(encoding="utf-8")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) == 1
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")), cell
        # As Excel divides a table in countries whose lists have semicolons.
        for cell in content.replace("\r", "\n").replace("\n", ";").split(";"):
            assert not cell.startswith(tuple("=+-@")), cell


def test_what_was_dropped_is_named_as_it_is(written: tuple[CXRDataModule, Path, Path]) -> None:
    table = restored(pd.read_csv(written[2], dtype=str, na_filter=False))
    assert table[["image", "reason", "detail"]].to_numpy().tolist() == [
        ["=covid;+x/=damaged\n;+1.png", "unreadable", "not an image"],
        ["=covid;+x/caf\\xe9.png", "file name is not UTF-8", "rename it"],
        ["other, well/=damaged\n;+1.png", "unreadable", "not an image"],
        ["other, well/caf\\xe9.png", "file name is not UTF-8", "rename it"],
    ]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_table_may_name_it(folder: Path, tmp_path: Path, name: str) -> None:
    from cxr.sources.reading import read_sources

    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "label"))
        writer.writerow((f"{name}.png", "covid"))
    manifest = read_sources(
        {"own": {"kind": "table", "root": str(tmp_path / "table.csv"), "images": str(folder / "=covid;+x")}},
        data_dir=tmp_path,
        cache_dir=tmp_path / "cache",
        progress=False,
    )
    assert manifest.records["image"].tolist() == [f"{name}.png"]
    assert Path(manifest.records["path"][0]).is_file()


def test_two_spellings_of_a_class_folder_are_one_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("gr\u00f6\u00dfer", "gro\u0308\u00dfer", "other"):
        for number in range(4):
            path = tmp_path / "root" / label / f"{label[-1]}{len(label)}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    data = read(tmp_path / "root")
    assert data.class_names == ["gr\u00f6\u00dfer", "other"]
    assert len(data.records) == 12


def test_a_root_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    rng = np.random.default_rng(0)
    for label in ("covid", "other"):
        (root / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / label / f"{number}.png")
    assert len(read(root).records) == 8
