"""Does bad input end a run, or is it left out, as was asked; and is it named alike on every run?"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.programs import run

from cxr.errors import ConfigurationError
from cxr.pipeline.bad_input import BadInputError
from cxr.pipeline.datamodule import CXRDataModule
from cxr.sources.spreadsheet import restored

pytestmark = pytest.mark.fault

ROOT = Path(__file__).resolve().parents[2]


def draw(path: Path, seed: int) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)).save(path, "PNG")
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of twelve; in one of them an empty file, one that is cut off, one that lies elsewhere, one gone."""
    root = tmp_path / "root"
    for number in range(12):
        draw(root / "covid" / f"{number}.png", number)
        content = draw(root / "other" / f"{number}.png", 100 + number)
    (root / "other" / "cut.png").write_bytes(content[: len(content) // 2])
    (root / "other" / "empty.png").write_bytes(b"")
    draw(tmp_path / "secret.png", 1000)
    (root / "other" / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "other" / "notes.txt").write_text("no image, and nothing bad either")
    return root


EXPECTED = [
    ["other/cut.png", "unreadable", "truncated"],
    ["other/empty.png", "unreadable", "empty file"],
    ["other/notes.txt", "not an image", None],
    ["other/out.png", "link out of the root"],
]


def read(root: Path, **options: Any) -> CXRDataModule:
    data = CXRDataModule(
        {"own": {"kind": "class_folders", "root": str(root), "patient": "none"}},
        cache_dir=root.parent / "cache",
        image_size=16,
        progress=False,
        **({"max_unreadable": 0.5} | options),
    )
    data.setup("fit")
    return data


def test_what_is_bad_is_left_out_counted_and_named(folder: Path) -> None:
    data = read(folder)
    assert len(data.records) == 24
    found = data.dropped[["image", "reason", "detail"]].to_numpy().tolist()
    assert [row[: len(expected)] for row, expected in zip(found, EXPECTED, strict=True)] == EXPECTED
    assert any(note == "2 unreadable files: 1 empty file, 1 truncated" for note in data.notes)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (lambda root: (root / "other" / "cut.png").unlink(), "1 empty file, 1 link out of the root"),
        (lambda root: (root / "other" / "out.png").unlink(), "1 empty file, 1 truncated"),
        (
            lambda root: [(root / "other" / name).unlink() for name in ("cut.png", "empty.png")],
            "1 link out of the root; own/other/out.png: link out of the root",
        ),
    ],
    ids=["empty and link", "empty and cut", "link alone"],
)
def test_nothing_bad_is_allowed_where_it_is_to_fail(folder: Path, bad: Callable[[Path], object], named: str) -> None:
    bad(folder)
    with pytest.raises(BadInputError, match=r"data\.on_bad=fail") as caught:
        read(folder, on_bad="fail", max_unreadable=1.0)
    assert named in str(caught.value)
    assert "data.on_bad=skip" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 3


def test_what_is_not_bad_fails_nothing(folder: Path) -> None:
    for name in ("cut.png", "empty.png", "out.png"):
        (folder / "other" / name).unlink()
    assert len(read(folder, on_bad="fail", max_unreadable=0.0).records) == 24


@pytest.mark.parametrize(("limit", "refused"), [(0.0, True), (0.07, True), (0.08, False), (1.0, False)])
def test_more_unreadable_files_than_the_limit_end_the_run_all_the_same(
    folder: Path, limit: float, refused: bool
) -> None:
    if not refused:
        assert len(read(folder, max_unreadable=limit).records) == 24
        return
    with pytest.raises(BadInputError, match=r"data\.max_unreadable: 2 of 26 images are unreadable") as caught:
        read(folder, max_unreadable=limit)
    assert len(caught.value.dropped) == 4


@pytest.mark.parametrize("row", ["gone.png,covid", "a\0.png,covid", "1.png", "../x.png,covid", "covid/0.png,other"])
def test_rows_of_a_table_are_held_to_the_same(folder: Path, row: str) -> None:
    names = [f"{label}/{number}.png,{label}" for label in ("covid", "other") for number in range(12)]
    table = folder / "table.csv"
    table.write_text("\n".join(["image,label", *names, row]) + "\n", encoding="utf-8")

    def load(on_bad: str) -> CXRDataModule:
        data = CXRDataModule(
            {"own": {"kind": "table", "root": str(table)}},
            cache_dir=folder.parent / "cache",
            image_size=16,
            on_bad=on_bad,
            progress=False,
        )
        data.setup("fit")
        return data

    assert len(load("skip").dropped) == (2 if row.startswith("covid") else 1)
    with pytest.raises(BadInputError, match=r"data\.on_bad=fail"):
        load("fail")


def test_the_same_list_comes_out_of_every_run(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):  # more than one job of every thread that decodes
        content = draw(folder / "covid" / f"more{number:02d}.png", 200 + number)
        if rng.random() < 0.5:
            (folder / "covid" / f"more{number:02d}.png").write_bytes(content[: 60 + 5 * number])
    lists = []
    for time in range(4):
        if time == 2:  # twice from the files, twice from what was prepared
            shutil.rmtree(folder.parent / "cache")
        data = read(folder, max_unreadable=1.0)
        lists.append((data.dropped, data.accounting, data.notes))
    assert len(lists[0][0]) > 15
    for dropped, accounting, notes in lists[1:]:
        pd.testing.assert_frame_equal(dropped, lists[0][0])
        pd.testing.assert_frame_equal(accounting, lists[0][1])
        assert notes == lists[0][2]
    errors = set()
    for _ in range(2):
        with pytest.raises(BadInputError) as caught:
            read(folder, on_bad="fail")
        errors.add(str(caught.value))
    assert len(errors) == 1


def test_a_policy_that_there_is_not_is_named(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.on_bad: 'ignore' is not one of skip, fail"):
        read(folder, on_bad="ignore")


def test_the_error_goes_from_process_to_process(folder: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        read(folder, on_bad="fail")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    pd.testing.assert_frame_equal(copy.dropped, caught.value.dropped)


PROGRAMS = {
    "audit": ["-m", "cxr.audit", "shortcuts=false"],
    "train": ["train.py", "model.pretrained=false", "logger=none"],
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_ends_with_status_3_and_leaves_the_whole_list(folder: Path, program: list[str]) -> None:
    (folder / "other" / "\x1b[31m=red\n.png").write_bytes(b"")
    words = ["data=class_folders", "data.root=root", "paths.data=.", "data.image_size=16"]
    done = run(*program, *words, "data.on_bad=fail", cwd=folder.parent)
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: data.on_bad=fail: 4 of 29 rows are bad (2 empty file, 1 link out of the root, 1 ")
    assert "\x1b" not in line
    (path,) = (folder.parent / "outputs").rglob("dropped.csv")
    assert line.endswith(f"all of them: {path.relative_to(folder.parent)}")
    table = restored(pd.read_csv(path, dtype=str, na_filter=False))
    assert table["image"].tolist() == [
        "other/\x1b[31m=red\n.png",
        *(f"other/{name}" for name in ("cut.png", "empty.png", "notes.txt", "out.png")),
    ]


def test_a_training_goes_on_without_what_is_bad(folder: Path) -> None:
    words = ["data=class_folders", "data.root=root", "paths.data=.", "data.image_size=32", "data.max_unreadable=0.5"]
    tiny = ["model.name=test_resnet", "model.pretrained=false", "trainer.gpus=0", "trainer.max_epochs=1", "logger=none"]
    done = run("train.py", *words, *tiny, "audit.shortcuts=false", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "2 unreadable files: 1 empty file, 1 truncated" in done.stdout
    (path,) = (folder.parent / "outputs").rglob("dropped.csv")
    assert len(pd.read_csv(path)) == 4
