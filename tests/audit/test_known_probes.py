"""Are the probes asked once about the same records, and anew about others?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.audit.audit import Audit, audit_records
from cxr.audit.known_probes import known_shortcuts
from cxr.audit.shortcut_probes import ShortcutProbes
from cxr.sources.reading import read_sources


@pytest.fixture
def records(tmp_path: Path) -> pd.DataFrame:
    """Pictures of 24 patients in two classes."""
    generator = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "ward" / ("covid" if number % 2 else "other")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (64, 64), np.uint8)).save(folder / f"{number:02d}.png")
    source = {"kind": "class_folders", "root": str(tmp_path / "ward"), "patient": "none"}
    manifest = read_sources({"ward": source}, data_dir=tmp_path, cache_dir=tmp_path / "cache", progress=False)
    return manifest.records.assign(split="train")


def ask(records: pd.DataFrame, folder: Path, **settings: Any) -> ShortcutProbes:
    given = {"class_names": ["covid", "other"], "positive": "covid", "num_resamples": 20, "progress": False}
    return known_shortcuts(records, cache_dir=folder / "cache", **{**given, **settings})


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("shortcuts-*.json"))


def take_away(records: pd.DataFrame, folder: Path) -> None:
    """Nothing is left to look at."""
    for path in [*(folder / "cache").glob("*.pixels"), *map(Path, records["path"])]:
        path.unlink()


def test_what_was_found_is_known_without_another_look(records: pd.DataFrame, tmp_path: Path) -> None:
    first = ask(records, tmp_path)
    take_away(records, tmp_path)
    assert ask(records, tmp_path) == first
    # Neither the order of the rows nor how they are divided, as in other folds, makes another question.
    other_fold = records.sample(frac=1.0, random_state=0).assign(split=["test", "val"] * 12)
    assert ask(other_fold, tmp_path) == first
    assert len(kept(tmp_path)) == 1


def test_the_audit_of_the_next_job_of_a_sweep_asks_nothing(records: pd.DataFrame, tmp_path: Path) -> None:
    def audit(given: pd.DataFrame) -> Audit:
        return audit_records(
            given, None, [], ["covid", "other"], "covid", tmp_path / "cache", split_kind="kfold", progress=False
        )

    first = audit(records)
    take_away(records, tmp_path)
    assert audit(records.assign(split=["val", "train"] * 12)).shortcuts == first.shortcuts is not None


@pytest.mark.parametrize(
    "change",
    [
        {"positive": "other"},
        {"class_names": ["other", "covid", "third"]},
        {"aspect": "pad"},
        {"num_resamples": 21},
        {"seed": 1},
        {"group": "joined"},
        {"label": None},
        {"source": "elsewhere"},
        {"path": "elsewhere"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_can_change_the_answer_makes_another_question(
    change: dict[str, Any], records: pd.DataFrame, tmp_path: Path
) -> None:
    ask(records, tmp_path)
    ((column, value),) = change.items()
    if column in records:
        moved = records.copy()
        if column == "path":
            value = str(Path(records.loc[3, "path"]).rename(tmp_path / "moved.png"))
        moved.loc[3, column] = value
        ask(moved, tmp_path)
    else:
        ask(records, tmp_path, **change)
    assert len(kept(tmp_path)) == 2


def test_a_mask_that_is_drawn_later_makes_another_question(records: pd.DataFrame, tmp_path: Path) -> None:
    first = ask(records, tmp_path)
    masks = tmp_path / "ward" / "annotations" / "lungVAE-masks"
    masks.mkdir(parents=True)
    Image.new("L", (64, 64), 255).save(masks / "03_mask.png")
    second = ask(records, tmp_path)
    assert (first.masked, second.masked) == (0, 1)
    assert len(kept(tmp_path)) == 2


def test_a_damaged_answer_is_not_believed(records: pd.DataFrame, tmp_path: Path) -> None:
    first = ask(records, tmp_path)
    (path,) = kept(tmp_path)
    for content in ('{"positive": "cov', '{"probes": [{"name": "border"}]}', "[]"):
        path.write_text(content, encoding="utf-8")
        assert ask(records, tmp_path) == first
