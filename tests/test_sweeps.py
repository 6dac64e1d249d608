"""Does every job of a sweep stand on its own feet, and does a sweep go on where it was stopped?  With processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from tests.programs import run, start

from cxr.training.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "experiment=demo",
    "data.sources.phantom.num_patients=30",
    "data.sources.phantom.size=64",
    "data.look_for_copies=false",
    "audit.shortcuts=false",
    "data.image_size=32",
    "data.batch_size=8",
    "model.name=test_resnet",
    "model.drop_rate=0.3",  # draws from the generator of torch in every step
    "balance=oversample",
    "trainer.max_epochs=6",
    "trainer.early_stopping_patience=5",
    "logger=none",
]
GRID = ["-m", *TINY, "seed=1,2,3", "sweep.name=grid"]


def num_epochs(run_dir: Path) -> int:
    path = run_dir / "history.csv"
    return len(path.read_text().splitlines()) - 1 if path.is_file() else 0


def status_of(run_dir: Path) -> dict[str, Any]:
    return RunDirectory(run_dir).read_status()


def table_of(output: str) -> str:
    return output[output.rindex("\nSweep ") :]


def is_alive(process_id: int) -> bool:
    """Whether a process runs; one that has ended and was not fetched yet does not."""
    stat = Path(f"/proc/{process_id}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs came to the same, to the last digit."""
    tables = [pd.read_csv(each / "history.csv").drop(columns="seconds") for each in (one, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["epoch"].is_unique
    measured = [json.loads((each / "metrics.json").read_text())["val"]["auroc"] for each in (one, other)]
    assert measured[0] == measured[1]
    for name in ("best.ckpt", "last.ckpt"):
        weights = [torch.load(each / "checkpoints" / name, weights_only=True)["state_dict"] for each in (one, other)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), name


class Watch:
    """Notes which files a folder of prepared images came to hold; one that is made anew is another file."""

    def __init__(self, folder: Path) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for path in self._folder.glob("*.pixels"):
                self.seen.add((path.name, path.stat().st_ino))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], Watch]:
    """A sweep of three jobs, two at a time, what it printed, and what was prepared meanwhile."""
    folder = tmp_path_factory.mktemp("undisturbed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "CXR_"))}
    with Watch(folder / "outputs" / "cache") as watch:
        # By a new interpreter, as a user does: its jobs come off a server of its own.
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *GRID, "hydra.launcher.n_jobs=2"],
            capture_output=True,
            text=True,
            cwd=folder,
            # One thread whatever runs beside: another number adds up in another order.
            env={**clean, "OMP_NUM_THREADS": "1"},
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "demo" / "grid", done, watch


def test_jobs_run_side_by_side_and_end_in_a_table(
    undisturbed: tuple[Path, subprocess.CompletedProcess[str], Watch],
) -> None:
    sweep, done, _ = undisturbed
    lines = [line for line in done.stdout.splitlines() if line.startswith("job ")]
    begun = [line.partition(":")[0] for line in lines if ": running" in line]
    assert begun == ["job 0 (seed=1)", "job 1 (seed=2)", "job 2 (seed=3)"]
    assert all(": running" in line for line in lines[:2]), "the first does not wait for the second"
    best = {int(path.name): json.loads((path / "metrics.json").read_text()) for path in sweep.glob("[0-9]")}
    ordered = sorted(best, key=lambda number: -best[number]["val"]["auroc"]["value"])
    rows = [line.split("│")[1:3] for line in table_of(done.stdout).splitlines() if line.startswith("│")]
    assert [int(row[0]) for row in rows] == ordered
    for number in best:
        console = (sweep / str(number) / "console.log").read_text()
        assert "epoch 6/6" in console
        assert f"python evaluate.py run=outputs/demo/grid/{number}" in console
        assert status_of(sweep / str(number))["status"] == "finished"
        assert yaml.safe_load((sweep / str(number) / "config.yaml").read_text())["seed"] == number + 1


def test_jobs_of_one_image_size_prepare_it_once(
    undisturbed: tuple[Path, subprocess.CompletedProcess[str], Watch],
) -> None:
    names = [name for name, _ in undisturbed[2].seen if name.startswith("32-")]
    assert len(names) == 1, undisturbed[2].seen


def test_a_sweep_that_was_killed_goes_on_and_ends_like_an_undisturbed_one(
    undisturbed: tuple[Path, subprocess.CompletedProcess[str], Watch], tmp_path: Path
) -> None:
    expected, done, _ = undisturbed
    words = [*GRID, f"paths.cache={expected.parents[1] / 'cache'}"]
    sweep = tmp_path / "outputs" / "demo" / "grid"
    program = start("train.py", *words, cwd=tmp_path)
    program.wait_until(lambda: num_epochs(sweep / "1") >= 2)
    child = int(status_of(sweep / "1")["process"])
    program.tell(signal.SIGKILL)
    os.killpg(child, signal.SIGKILL)
    program.wait()
    assert status_of(sweep / "1")["status"] == "running", "nobody was left to say that it was killed"
    first = (sweep / "0" / "status.json").stat().st_mtime_ns

    again = run("train.py", *words, "hydra.launcher.n_jobs=2", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert table_of(again.stdout) == table_of(done.stdout)
    assert (sweep / "0" / "status.json").stat().st_mtime_ns == first, "a finished job was repeated"
    assert "job 0 (seed=1): done before" in again.stdout
    assert "job 1 (seed=2): goes on after epoch" in again.stdout
    assert sorted(path.name for path in sweep.glob("[0-9]*")) == ["0", "1", "2"]
    for number in ("0", "1", "2"):
        assert_same_run(expected / number, sweep / number)


@pytest.fixture(scope="module")
def with_failures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """A sweep over experiments of which one succeeds, in two processes; its folder, exit status and output."""
    folder = tmp_path_factory.mktemp("failures")
    kinds = {
        "absent": {"data": {"sources": {"phantom": {"num_patients": 2}}}},
        "diverging": {"optimizer": {"name": "sgd", "lr": 10.0, "weight_decay": 10.0}, "trainer": {"max_epochs": 200}},
        "killed": {"trainer": {"max_epochs": 1000}},
        "good": {"trainer": {"max_epochs": 2, "strategy": "ddp"}},
    }
    (folder / "conf" / "experiment").mkdir(parents=True)
    for name, changes in kinds.items():
        text = "# @package _global_\ndefaults:\n  - demo\n  - _self_\n\n" + yaml.safe_dump(changes)
        (folder / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    words = [word for word in TINY if not word.startswith(("experiment=", "trainer.", "logger=", "data.sources"))]
    program = start(
        "train.py",
        "-m",
        f"experiment={','.join(kinds)}",
        *words,
        "schedule=constant",
        "name=failures",
        "sweep.name=kinds",
        "hydra.launcher.n_jobs=2",
        "--config-dir",
        "conf",
        cwd=folder,
    )
    sweep = folder / "outputs" / "failures" / "kinds"
    program.wait_until(lambda: num_epochs(sweep / "2") >= 1)
    os.kill(int(status_of(sweep / "2")["process"]), signal.SIGKILL)
    done = program.ended()
    return sweep, done.returncode, done.stdout, done.stderr


def test_one_jobs_end_leaves_the_others_alone(with_failures: tuple[Path, int, str, str]) -> None:
    sweep, status, output, errors = with_failures
    assert status == 1
    assert status_of(sweep / "3")["status"] == "finished", errors
    assert errors.splitlines()[0] == "error: 3 of 4 jobs failed"
    reasons = [status_of(sweep / number)["reason"] for number in ("0", "1", "2")]
    told = [status_of(sweep / number)["status"] for number in ("0", "1", "2")]
    assert told == ["failed", "diverged", "failed"]
    assert "loss" in reasons[1]
    assert reasons[2] == "killed by SIGKILL (perhaps out of memory)"
    table = " ".join(table_of(output).split())
    for reason in reasons:
        assert reason in " ".join(errors.split())
        assert reason[:40] in table


def test_wandb_says_which_failed(with_failures: tuple[Path, int, str, str]) -> None:
    sweep = with_failures[0]
    codes, told = {}, {}
    for number in ("0", "1", "2", "3"):
        ends, summary = [], {}
        tracked = json.loads((sweep / number / "tracking.json").read_text())
        folders = sorted((sweep / "tracking").rglob(f"offline-run-*-{tracked['id']}"))
        assert folders
        for folder in folders:
            shown = subprocess.run(
                [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(folder)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            records = [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]
            ends += [record["exit"].get("exit_code", 0) for record in records if record["type"] == "exit"]
            for record in records:
                summary |= record["summary"].get("update", {}) if record["type"] == "summary" else {}
        codes[number], told[number] = ends, (summary["status"], summary["reason"])
    assert codes == {"0": [3], "1": [4], "2": [9], "3": [0]}
    assert told["0"] == ("failed", "DataError")  # the error itself may name a patient
    assert told["1"] == ("diverged", status_of(sweep / "1")["reason"])
    assert told["2"] == ("failed", status_of(sweep / "2")["reason"])
    assert told["3"] == ("finished", "")


def test_ctrl_c_ends_all_jobs_between_two_batches(
    undisturbed: tuple[Path, subprocess.CompletedProcess[str], Watch], tmp_path: Path
) -> None:
    words = [word for word in GRID if not word.startswith(("trainer.", "schedule."))]
    cache = undisturbed[0].parents[1] / "cache"
    program = start(
        "train.py",
        *words,
        "trainer.max_epochs=1000",
        f"paths.cache={cache}",
        "hydra.launcher.n_jobs=2",
        cwd=tmp_path,
    )
    sweep = tmp_path / "outputs" / "demo" / "grid"
    program.wait_until(lambda: all(num_epochs(sweep / number) >= 1 for number in ("0", "1")))
    children = [int(status_of(sweep / number)["process"]) for number in ("0", "1")]
    other = run("train.py", *words, "trainer.max_epochs=1000", cwd=tmp_path)
    assert other.returncode == 2
    assert "another program runs this sweep" in other.stderr
    for _ in range(2):  # as uv run does without a terminal: it hands on what the whole group was sent
        os.killpg(program.number, signal.SIGINT)
    done = program.ended()
    assert done.returncode == 130, done.stderr
    assert not any(is_alive(child) for child in children)
    assert [status_of(sweep / number)["exit_status"] for number in ("0", "1")] == [130, 130]
    assert not (sweep / "2").exists(), "no further job begins"
    assert "sweep.resume=outputs/demo/grid" in done.stdout
