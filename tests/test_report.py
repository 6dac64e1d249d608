"""Do the tables that a run saves survive file names that a spreadsheet would run?"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.evaluation.report.contents import read_contents
from cxr.pipeline.datamodule import CXRDataModule
from cxr.report import report_data
from cxr.training.run_directory import RunDirectory

HOSTILE = ["=1+1", "+a", "-b", "@c", "\td", "'=e", "''+f", "'g", "-7", "plain", "\rh", "+i"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture of noise under each name in each of two classes, and one file that is no picture."""
    generator = np.random.default_rng(0)
    for label in ("covid", "other"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for name in HOSTILE:
            pixels = generator.integers(0, 256, (40, 40), dtype=np.uint8)
            # The class in the name: a patient is known by the name of the file.
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{name}{label}.png")
        (tmp_path / "data" / label / "=damaged.png").write_bytes(b"no picture")
    return tmp_path / "data"


def test_a_split_of_hostile_names_can_be_given_back(folder: Path, tmp_path: Path) -> None:
    sources = {"=ward": {"kind": "class_folders", "root": str(folder), "patient": "none"}}
    given = {"image_size": 32, "cache_dir": tmp_path / "cache", "progress": False, "max_unreadable": 1.0}
    data = CXRDataModule(sources, split={"kind": "holdout", "seed": 3, "val_fraction": 0.3}, **given)
    data.setup("fit")
    run = RunDirectory.create(tmp_path / "runs", "demo")
    report_data(run.path, data)

    for path in (run.split_path, run.dropped_path):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 1
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(tuple("=+-@\t\r\n")), cell

    again = CXRDataModule(sources, split={"kind": "file", "path": str(run.split_path)}, **given)
    again.setup("fit")
    told = [dict(zip(each.records["image"], each.records["split"], strict=True)) for each in (data, again)]
    assert told[0] == told[1]
    assert set(told[0].values()) == {"train", "val", "test"}
    assert any(image.rpartition("/")[2].startswith("=") for image in told[0])

    shown = read_contents(run)
    assert shown.split is not None
    assert shown.split["image"].tolist() == data.records["image"].tolist()
    assert set(shown.split["source"]) == {"=ward"}
