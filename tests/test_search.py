"""Does a search go on to its total after a kill, repeat nothing, and tell pruned from failed?  With processes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.programs import run, start
from tests.test_sweeps import TINY, status_of

from cxr.compare import main as compare

# Six combinations. None reaches the threshold, and no trial is pruned in its last epoch: those of three epochs are.
SEARCH = [
    "-m",
    *(word for word in TINY if not word.startswith("trainer.")),
    "hydra/sweeper=optuna",
    "trainer.max_epochs=choice(1, 3)",
    "seed=range(1, 4)",
    "hydra.sweeper.pruner=threshold",
    "hydra.sweeper.threshold=0.999",
    "hydra.launcher.n_jobs=2",
    "sweep.name=search",
]
ENDED = ("finished", "pruned")


def chosen(trial: Path) -> tuple[int, int]:
    """What a trial was run with."""
    settings = yaml.safe_load((trial / "config.yaml").read_text())
    return settings["trainer"]["max_epochs"], settings["seed"]


def trials_of(sweep: Path) -> list[Path]:
    return sorted(sweep.glob("[0-9]*"), key=lambda path: int(path.name))


@dataclass
class Searched:
    """A search that was killed in its midst and went on to five trials.

    Attributes:
        ended, cut_off: trials that had ended, and that were running, when it was killed, with what they were run with.
        written: when the former were written last.
    """

    sweep: Path
    ended: dict[str, tuple[int, int]]
    cut_off: dict[str, tuple[int, int]]
    written: dict[str, int]
    output: str

    @property
    def record(self) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = json.loads((self.sweep / "study.json").read_text())["trials"]
        return content


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("search")
    sweep = folder / "outputs" / "demo" / "search"
    program = start("train.py", *SEARCH, "hydra.sweeper.n_trials=4", cwd=folder)

    def is_in_the_midst() -> bool:
        states = [(status_of(trial).get("status"), (trial / "config.yaml").is_file()) for trial in trials_of(sweep)]
        return any(status in ENDED for status, _ in states) and ("running", True) in states

    program.wait_until(is_in_the_midst)
    program.tell(signal.SIGKILL)
    for trial in trials_of(sweep):
        if status_of(trial).get("status") == "running":
            os.killpg(int(status_of(trial)["process"]), signal.SIGKILL)
    program.wait()
    states = {trial.name: status_of(trial).get("status") for trial in trials_of(sweep)}
    ended = {name: chosen(sweep / name) for name, status in states.items() if status in ENDED}
    cut_off = {name: chosen(sweep / name) for name, status in states.items() if status == "running"}
    written = {name: (sweep / name / "status.json").stat().st_mtime_ns for name in ended}
    done = run("train.py", *SEARCH, "hydra.sweeper.n_trials=5", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Searched(sweep, ended, cut_off, written, done.stdout)


def test_the_total_is_reached_and_nothing_tried_twice(searched: Searched) -> None:
    trials = trials_of(searched.sweep)
    assert len(trials) == 5
    assert len({chosen(trial) for trial in trials}) == 5
    assert {trial.name for trial in trials} == {str(trial["number"]) for trial in searched.record}
    assert all(status_of(trial)["status"] in ENDED for trial in trials)


def test_what_had_ended_is_kept_and_what_was_cut_off_goes_on(searched: Searched) -> None:
    assert searched.ended
    assert searched.cut_off
    for name, before in {**searched.ended, **searched.cut_off}.items():
        assert chosen(searched.sweep / name) == before
    for name, written in searched.written.items():
        assert (searched.sweep / name / "status.json").stat().st_mtime_ns == written, "it was run again"


def test_pruned_is_pruned(searched: Searched) -> None:
    outcomes = {trial["number"]: trial["outcome"] for trial in searched.record}
    for trial in trials_of(searched.sweep):
        max_epochs = chosen(trial)[0]
        assert outcomes[int(trial.name)] == {1: "complete", 3: "pruned"}[max_epochs]
        assert status_of(trial)["status"] == {1: "finished", 3: "pruned"}[max_epochs]
        assert status_of(trial)["exit_status"] == 0
    assert list(outcomes.values()).count("pruned") >= 2
    table = searched.output[searched.output.rindex("\nSweep ") :]
    assert table.count("pruned at epoch 2 of 3") == list(outcomes.values()).count("pruned")
    assert "failed" not in searched.output


def test_once_more_there_is_nothing_to_do(searched: Searched) -> None:
    before = {path: path.stat().st_mtime_ns for path in searched.sweep.glob("*/*")}
    done = run("train.py", "-m", f"sweep.resume={searched.sweep}", cwd=searched.sweep.parents[2])
    assert done.returncode == 0, done.stderr
    assert "job " not in done.stdout.partition("\nSweep ")[0]
    assert {path: path.stat().st_mtime_ns for path in searched.sweep.glob("*/*")} == before


def test_the_comparison_says_how_the_search_went(searched: Searched, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare([str(searched.sweep)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    number = sum(trial["outcome"] == "pruned" for trial in searched.record)
    assert f"Search demo/search: 5 trials, {5 - number} complete, {number} pruned." in printed
    page = (searched.sweep / "comparison" / "comparison.html").read_text()
    assert "How the search went" in page
    assert (searched.sweep / "comparison" / "figures" / "search_history.png").is_file()
