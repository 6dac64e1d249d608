"""Is a run called by what differs, and by nothing that must not travel?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cxr.run_names import job_name, single_name

SETTINGS = {"balance": {"sampler": "none"}, "optimizer": {"lr": 0.1}, "seed": 0}


def sweep(folder: Path, *typed: str, **params: str) -> Path:
    content = {"hydra": {"overrides": {"task": list(typed)}, "sweeper": {"params": params or None}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_job_is_named_by_what_was_swept(tmp_path: Path) -> None:
    typed = ["experiment=demo", "trainer.gpus=0", "optimizer.lr=1e-4,3e-4", "balance=none,oversample"]
    chosen = {"experiment": "demo", "trainer.gpus": "0", "optimizer.lr": "0.0003", "balance": "oversample"}
    assert job_name(3, chosen, sweep(tmp_path, *typed), SETTINGS) == "3: lr=0.0003, oversample"
    chosen["balance"] = "none"
    assert job_name(0, chosen, tmp_path, SETTINGS) == "0: lr=0.0003, balance=none"


def test_a_sweep_from_a_file_counts_and_equal_ends_stay_apart(tmp_path: Path) -> None:
    folder = sweep(tmp_path, "seed=0,1", **{"data.split.seed": "0,1"})
    assert job_name(1, {"seed": "0", "data.split.seed": "1"}, folder, SETTINGS) == "1: seed=0, split.seed=1"


def test_without_a_record_of_the_sweep_all_that_was_typed_is_named(tmp_path: Path) -> None:
    assert job_name(2, {"optimizer.lr": "0.1"}, tmp_path, SETTINGS) == "2: lr=0.1"


@pytest.mark.parametrize("place", ["/home/jane/weights.pt", "~/w.pt", "../w.pt"])
def test_no_path_becomes_part_of_a_name(tmp_path: Path, place: str) -> None:
    folder = sweep(tmp_path, f"model.weights={place},b.pt")
    assert place not in job_name(0, {"model.weights": place}, folder, SETTINGS)
    assert place not in single_name("demo", "2026-01-02_03-04-05-678_9", {"model.weights": place}, SETTINGS)


def test_a_single_run_is_named_by_experiment_time_and_what_was_typed() -> None:
    chosen = {"experiment": "demo", "trainer.gpus": "0", "paths.data": "/x", "optimizer.lr": "0.1"}
    name = single_name("demo", "2026-01-02_03-04-05-678_9", chosen, SETTINGS)
    assert name == "demo 2026-01-02 03:04:05: lr=0.1"
