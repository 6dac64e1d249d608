"""An evaluation is a W&B run of its own, which names the run that was trained and no patient."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from cxr.evaluation.evaluate import evaluate_run

pytestmark = pytest.mark.usefixtures("no_wandb_account")


def test_numbers_bounds_and_charts_go_to_a_run_of_their_own(
    run: Path, inspect_wandb: Callable[[Path], list[dict[str, Any]]]
) -> None:
    settings = {"name": "demo", "logger": {"name": "wandb", "project": "chests", "entity": None, "group": "night"}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (run / "tracking" / "wandb" / "offline-run-20260101_000000-abc123").mkdir(parents=True)
    result = evaluate_run(run, gpus=0, progress=False, report=False, num_resamples=100, tracking=None)
    assert result.entry is not None

    (sent,) = (path for path in (run / "tracking" / "wandb").glob("offline-run-*") if not path.name.endswith("abc123"))
    records = inspect_wandb(sent)
    (about,) = (record["run"] for record in records if record["type"] == "run")
    assert (about["job_type"], about["run_group"], about["project"]) == ("evaluate", "night", "chests")
    config = about["config"]["update"]
    assert config["trained_run"] == "abc123"
    assert config["checkpoint_sha256"] == result.entry["checkpoint_sha256"]

    text = json.dumps(records)
    for name in ("test/auroc", "test/auroc_low", "test/auroc_high", "test/accuracy_n"):
        assert name in text
    for chart in ("test/roc", "test/precision_recall", "test/confusion_matrix", "test/predictions"):
        assert chart in text

    everything = b"".join(path.read_bytes() for path in sorted(sent.parent.parent.rglob("*")) if path.is_file())
    table = pd.read_csv(run / "predictions" / "test.csv", dtype=str)
    for name in {*table["image"], *table["patient"]}:
        assert name.encode() not in everything


def test_nothing_is_sent_where_the_training_was_not_tracked(run: Path) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({"name": "demo", "logger": {"name": "none"}}), encoding="utf-8")
    evaluate_run(run, gpus=0, progress=False, report=False, num_resamples=100, tracking=None)
    assert not (run / "tracking").exists()
