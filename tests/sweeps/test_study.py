"""Does a study ask for nothing twice, go on where it was stopped, and learn from what it is told?  With a journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import ConfigurationError
from cxr.evaluation.comparison.search_record import RECORD
from cxr.sweeps.search_folder import kept_study
from cxr.sweeps.space import Dimension, Space, in_order
from cxr.sweeps.study import JOURNAL, Study, open_storage
from cxr.sweeps.trial import Pruning, join_trial, trial_environment

LR = Dimension("optimizer.lr", "float", low=1e-5, high=1e-2, log=True)
NAME = Dimension("optimizer.name", "choice", choices=("adamw", "sgd"))
MOMENTUM = Dimension("optimizer.momentum", "float", low=0.5, high=0.9, when=(("optimizer.name", ("sgd",)),))
SEED = Dimension("seed", "int", low=1, high=3, step=1)


def begin(folder: Path, *dimensions: Dimension, sampler: str = "tpe", **changed: Any) -> Study:
    fixed = {"trainer.max_epochs": 3, **changed}
    space = in_order(dimensions)
    return Study(open_storage(None, folder), None, "study", space, folder, sampler, 0, 3, fixed)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_study_goes_on_and_tries_nothing_twice(tmp_path: Path, sampler: str) -> None:
    tried = []
    for call in range(3):
        study = begin(tmp_path, LR, NAME, sampler=sampler)
        for _ in range(4):
            asked = study.ask()
            assert asked is not None
            tried.append(json.dumps(asked.values, sort_keys=True))
            study.tell(asked.number, 0.5 + asked.number / 100, "complete", None)
        assert study.counts().ended == 4 * (call + 1)
    assert len(set(tried)) == 12
    kept = json.loads((tmp_path / RECORD).read_text())["trials"]
    assert [json.dumps(trial["params"], sort_keys=True) for trial in kept] == tried


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_space_with_an_end_is_tried_whole_and_once(tmp_path: Path, sampler: str) -> None:
    found = []
    study = begin(tmp_path, NAME, SEED, sampler=sampler)
    while (asked := study.ask()) is not None:
        found.append((asked.values["optimizer.name"], asked.values["seed"]))
        study.tell(asked.number, 0.5, "complete", None)
    assert sorted(found) == [(name, seed) for name in ("adamw", "sgd") for seed in (1, 2, 3)]
    assert study.counts().ended == 6, "what had been tried before counts for nothing"


def test_a_condition_decides_whether_a_key_is_searched(tmp_path: Path) -> None:
    study = begin(tmp_path, MOMENTUM, LR, NAME)
    seen = set()
    for _ in range(12):
        asked = study.ask()
        assert asked is not None
        assert ("optimizer.momentum" in asked.values) == (asked.values["optimizer.name"] == "sgd")
        seen.add(asked.values["optimizer.name"])
        study.tell(asked.number, 0.5, "complete", None)
    assert seen == {"adamw", "sgd"}


def test_keys_that_depend_on_each_other_in_a_circle_are_named() -> None:
    first = Dimension("a", "choice", choices=("x",), when=(("b", ("x",)),))
    second = Dimension("b", "choice", choices=("x",), when=(("a", ("x",)),))
    with pytest.raises(ValueError, match="a, b"):
        in_order([first, second])
    assert in_order([MOMENTUM, NAME]) == Space((NAME, MOMENTUM))


def test_what_was_running_is_found_again_with_its_values(tmp_path: Path) -> None:
    asked = begin(tmp_path, LR, NAME).ask()
    assert asked is not None
    study = begin(tmp_path, LR, NAME)
    assert study.left_over() == [asked]
    assert study.counts().running == 1


def test_pruned_is_pruned_and_a_diverged_trial_teaches_the_sampler(tmp_path: Path) -> None:
    study = begin(tmp_path, LR)
    for outcome in ("complete", "pruned", "diverged", "failed"):
        asked = study.ask()
        assert asked is not None
        study.tell(
            asked.number, 0.7 if outcome == "complete" else None, outcome, "why" if outcome != "complete" else None
        )
    counts = study.counts()
    assert (counts.complete, counts.pruned, counts.diverged, counts.failed, counts.ended) == (1, 1, 1, 1, 4)
    assert [trial.state.name for trial in study.of_this_sweep()] == ["COMPLETE", "PRUNED", "COMPLETE", "FAIL"]
    assert study.of_this_sweep()[2].value == 0, "the worst val/auroc that there is"


def test_a_study_with_other_settings_or_choices_does_not_go_on(tmp_path: Path) -> None:
    study = begin(tmp_path, NAME)
    asked = study.ask()
    assert asked is not None
    with pytest.raises(ConfigurationError, match=r"trainer\.max_epochs: 3 -> 5"):
        begin(tmp_path, NAME, **{"trainer.max_epochs": 5})
    with pytest.raises(ConfigurationError, match=r"optimizer\.name was searched among other values"):
        begin(tmp_path, Dimension("optimizer.name", "choice", choices=("adamw", "lion")))


def test_a_folder_belongs_to_one_study_whose_trials_it_knows(tmp_path: Path) -> None:
    asked = begin(tmp_path, LR).ask()
    assert asked is not None
    study = begin(tmp_path, LR)
    study.tell(asked.number, 0.5, "complete", None)
    assert kept_study(tmp_path) == "study"
    with pytest.raises(ConfigurationError, match=r"study_name=other: the sweep folder .* belongs to the study study"):
        Study(open_storage(None, tmp_path), None, "other", Space((LR,)), tmp_path, "tpe", 0, 3, {})
    (tmp_path / JOURNAL).unlink()
    with pytest.raises(ConfigurationError, match="its storage lacks 1 of the 1 trials"):
        begin(tmp_path, LR)
    (tmp_path / "grid" / "0").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="holds jobs of another sweep"):
        begin(tmp_path / "grid", LR)


def test_the_process_of_a_trial_asks_through_the_storage_whether_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin(tmp_path, LR)
    asked = study.ask()
    assert asked is not None
    pruning = Pruning("threshold", 1, 5, 25.0, 0.6, 3)
    told = trial_environment(storage=None, sweep_dir=tmp_path, study="study", trial_id=asked.trial_id, pruning=pruning)
    assert join_trial(3) is None, "outside a search there is no trial"
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    trial = join_trial(3)
    assert trial is not None
    assert not trial.report(1, 0.3), "no trial is pruned in its warm-up"
    assert trial.report(2, 0.3)
    assert not trial.report(1, 0.3), "killed before the checkpoint of the second epoch, it comes to it again"
    assert trial.report(2, 0.3)
    study.tell(asked.number, None, "pruned", "pruned at epoch 2 of 3")
    (kept,) = json.loads((tmp_path / RECORD).read_text())["trials"]
    assert (kept["outcome"], kept["epochs"], kept["value"]) == ("pruned", 2, 0.3)


def test_two_programs_share_a_study_in_a_database_each_with_its_folder(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'studies.db'}"
    folders = [tmp_path / name for name in ("one", "other")]

    def join(folder: Path) -> Study:
        folder.mkdir(exist_ok=True)
        return Study(open_storage(address, folder), address, "shared", Space((SEED,)), folder, "random", 0, 3, {})

    one, other = (join(folder) for folder in folders)
    first, second = one.ask(), other.ask()
    assert first is not None
    assert second is not None
    assert first.values != second.values
    assert (one.counts().running, other.counts().running) == (2, 2)
    assert join(folders[0]).left_over() == [first], "what the other program runs is not taken up"
    one.tell(first.number, 0.6, "complete", None)
    other.tell(second.number, None, "failed", "why")
    third = one.ask()
    assert third is not None
    one.tell(third.number, 0.7, "complete", None)
    assert other.ask() is None, "all three have been tried"
    assert str(other.counts()) == "2 complete, 1 failed"
    assert [trial.number for trial in other.of_this_sweep()] == [second.number]


@pytest.mark.parametrize("pruner", ["median", "percentile", "threshold", "successive_halving", "hyperband"])
def test_every_pruner_ends_a_trial_that_is_behind_but_none_in_its_warm_up(
    pruner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin(tmp_path, LR, sampler="random")
    ended: list[tuple[int, int]] = []
    for number in range(8):
        asked = study.ask()
        assert asked is not None
        pruning = Pruning(pruner, 2, 3, 25.0, 0.5, 3)
        told = trial_environment(
            storage=None, sweep_dir=tmp_path, study="study", trial_id=asked.trial_id, pruning=pruning
        )
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        trial = join_trial(9)
        assert trial is not None
        level = 0.3 if number % 4 == 3 else 0.8 + number / 100
        end = next((epoch for epoch in range(1, 10) if trial.report(epoch, level + epoch / 100)), None)
        if end is not None:
            ended.append((number, end))
        study.tell(asked.number, level if end is None else None, "complete" if end is None else "pruned", None)
    assert {number for number, _ in ended} >= {7}, "the last is behind six others"
    assert {number for number, _ in ended} <= {3, 7}, "each of the others is the best so far"
    assert min(end for _, end in ended) == 3


def test_a_storage_that_cannot_be_used_is_said_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"hydra\.sweeper\.storage=nosuch://me:\*\*\*@host"):
        open_storage("nosuch://me:secret@host/studies", tmp_path)
