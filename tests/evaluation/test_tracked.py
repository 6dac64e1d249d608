"""An evaluation is a W&B run of its own, which names the run that was trained and no patient."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cxr.evaluation.evaluate import evaluate_run
from cxr.evaluation.scoring.checkpoint import open_run
from cxr.evaluation.scoring.subject import own_split
from cxr.evaluation.tracked import MAX_THUMBNAILS

pytestmark = pytest.mark.usefixtures("no_wandb_account")


def test_numbers_bounds_and_charts_go_to_a_run_of_their_own(
    run: Path, inspect_wandb: Callable[[Path], list[dict[str, Any]]]
) -> None:
    settings = {"name": "demo", "logger": {"name": "wandb", "project": "chests", "entity": None, "group": "night"}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (run / "tracking.json").write_text(
        json.dumps(
            {"id": "abc123", "name": "3: lr=0.1", "group": "night", "project": "chests", "entity": None}
            | {"folder": "tracking"}
        ),
        encoding="utf-8",
    )
    result = evaluate_run(run, gpus=0, progress=False, report=False, num_resamples=100, tracking=None)
    assert result.entry is not None

    (sent,) = (run / "tracking" / "wandb").glob("offline-run-*")
    records = inspect_wandb(sent)
    (about,) = (record["run"] for record in records if record["type"] == "run")
    assert (about["job_type"], about["run_group"], about["project"]) == ("evaluate", "night", "chests")
    config = about["config"]["update"]
    assert about["display_name"] == "test of 3: lr=0.1"
    assert (config["trained_run"], config["model_artifact"]) == ("abc123", "model-abc123:best")
    assert config["checkpoint_sha256"] == result.entry["checkpoint_sha256"]

    text = json.dumps(records)
    for name in ("test/auroc", "test/auroc_low", "test/auroc_high", "test/accuracy_n"):
        assert name in text
    for name in ("test/ece_equal_mass", "test/slope"):
        assert name in text
    for chart in (
        "test/reliability",
        "test/subgroups",
        "test/roc",
        "test/precision_recall",
        "test/confusion_matrix",
        "test/predictions",
    ):
        assert chart in text

    everything = b"".join(path.read_bytes() for path in sorted(sent.parent.parent.rglob("*")) if path.is_file())
    table = pd.read_csv(run / "predictions" / "test.csv", dtype=str)
    for name in {*table["image"], *table["patient"]}:
        assert name.encode() not in everything


def test_nothing_is_sent_where_the_training_was_not_tracked(run: Path) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({"name": "demo", "logger": {"name": "none"}}), encoding="utf-8")
    evaluate_run(run, gpus=0, progress=False, report=False, num_resamples=100, tracking=None)
    assert not (run / "tracking").exists()


def test_pictures_of_the_worst_errors_are_sent_only_where_asked_for(
    run: Path, inspect_wandb: Callable[[Path], list[dict[str, Any]]]
) -> None:
    given = {"gpus": 0, "progress": False, "report": False, "num_resamples": 100, "split": "train"}
    for folder, asked in (("without", False), ("with", True)):
        result = evaluate_run(run, output_dir=run.parent / folder, tracking="wandb", tracking_thumbnails=asked, **given)
    predictions = result.predictions
    assert (predictions["label"] != predictions["predicted"]).any(), "the network of one epoch errs"

    def pictures(folder: str) -> set[bytes]:
        # W&B stages what a table shows under names of its own.
        files = [path.read_bytes() for path in (run.parent / folder / "tracking").rglob("*") if path.is_file()]
        return {np.asarray(Image.open(io.BytesIO(f))).tobytes() for f in files if f.startswith(b"\x89PNG")}

    assert pictures("without") == set()
    of_label = np.where(predictions["label"] == "covid", predictions["prob_covid"], predictions["prob_other"])
    wrong = np.flatnonzero(predictions["label"] != predictions["predicted"])
    worst = wrong[np.argsort(of_label[wrong], kind="stable")][:MAX_THUMBNAILS]
    images = own_split(open_run(run), "train", progress=False).images(worst).numpy()
    assert pictures("with") == {image.tobytes() for image in images}

    (sent,) = (run.parent / "with" / "tracking" / "wandb").glob("offline-run-*")
    assert "train/predictions" in json.dumps(inspect_wandb(sent))
    (table,) = (json.loads(path.read_text()) for path in sent.rglob("*predictions*.table.json"))
    assert [row[-1] is not None for row in table["data"]].count(True) == len(worst)
    everything = b"".join(path.read_bytes() for path in sorted((run.parent / "with").rglob("tracking/**/*.wandb")))
    for name in {*predictions["image"], *predictions["patient"]}:
        assert str(name).encode() not in everything


def test_pictures_that_cannot_be_sent_are_said(run: Path) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({"name": "demo", "logger": {"name": "none"}}), encoding="utf-8")
    given = {"gpus": 0, "progress": False, "report": False, "num_resamples": 100, "tracking": None}
    assert any("tracking_thumbnails" in note for note in evaluate_run(run, tracking_thumbnails=True, **given).notes)
    assert not any("tracking_thumbnails" in note for note in evaluate_run(run, **given).notes)
