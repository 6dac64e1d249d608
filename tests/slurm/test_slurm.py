"""Does a sweep on a real Slurm come to what it comes to on one machine, whatever happens to its jobs?

tests/slurm/run installs Slurm, if need be, and runs this.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from local_slurm import LocalSlurm

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("CXR_SLURM") != "1", reason="starts a Slurm of its own: tests/slurm/run"),
]
TINY = [
    "data.sources.phantom.size=64",
    "data.look_for_copies=false",
    "audit.shortcuts=false",
    "data.image_size=32",
    "data.batch_size=4",
    "model.name=resnet10t",
    "model.drop_rate=0.3",
    "balance=oversample",
    "name=kinds",
    "--config-dir",
    "conf",
]
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.timeout_min=10"]
DISTRIBUTED = {"strategy": "ddp", "num_processes": 2, "gpus": 0}


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    missing = LocalSlurm.missing()
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'Slurm'}: tests/slurm/run")
    folder = Path(tempfile.mkdtemp(prefix="cxr_slurm_"))
    with LocalSlurm(folder) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiments that are swept."""
    made = tmp_path_factory.mktemp("sweeps")
    kinds: dict[str, dict[str, Any]] = {
        f"seed{seed}": {"seed": seed, "trainer": {"max_epochs": 25}} for seed in range(4)
    }
    kinds["two_tasks"] = {"trainer": {"max_epochs": 3, **DISTRIBUTED}}
    kinds["endless"] = {"seed": 8, "trainer": {"max_epochs": 5000, **DISTRIBUTED}}
    kinds["killed"] = {"seed": 9, "trainer": {"max_epochs": 5000}}
    few = {"sources": {"phantom": {"num_patients": 2}}}
    kinds["too_few"] = {"seed": 10, "data": few}
    (made / "conf" / "experiment").mkdir(parents=True)
    for name, changes in kinds.items():
        changes.setdefault("data", {"sources": {"phantom": {"num_patients": 40}}})
        text = "# @package _global_\ndefaults:\n  - demo\n  - _self_\n\n" + yaml.safe_dump(changes)
        (made / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    return made


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True, scope="module")
def _nobody_is_left() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()


def start(folder: Path, slurm: LocalSlurm, *words: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "CXR_", "SLURM_"))}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *words, *TINY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        # One thread everywhere: another number adds up in another order.
        env={**clean, **slurm.environment, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > until:
            process.kill()
            pytest.fail(f"nothing came of it: {process.communicate()}")
        time.sleep(0.05)


def num_epochs(run_dir: Path) -> int:
    path = run_dir / "history.csv"
    return len(path.read_text().splitlines()) - 1 if path.is_file() else 0


def status_of(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "status.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def job_ids(sweep: Path) -> dict[int, str]:
    content = json.loads((sweep / "slurm" / "jobs.json").read_text())
    return {int(number): entry["id"] for number, entry in content.items()}


def raw_id(slurm: LocalSlurm, job_id: str) -> str:
    """The number that Slurm's programs want where one job of an array is to be told something."""
    (line,) = slurm.ask("squeue", "--noheader", "--format=%A", f"--jobs={job_id}").split()
    return line


def restarts(slurm: LocalSlurm, job_id: str) -> int:
    shown = slurm.ask("scontrol", "show", "job", job_id)
    return int(shown.partition("Restarts=")[2].split()[0])


def tracked_ids(folder: Path) -> set[str]:
    return {path.name.rsplit("-", 1)[1] for path in folder.rglob("offline-run-*") if path.is_dir()}


@pytest.fixture(scope="module")
def swept(slurm: LocalSlurm, folder: Path) -> tuple[Path, str, str, dict[int, int]]:
    """An array of four and a job of two tasks; job 1 is put back by Slurm, and the time of job 2 runs out.

    The folder, what was printed, Slurm's configuration of the jobs, and how often each was started again.
    """
    words = "experiment=seed0,seed1,seed2,seed3,two_tasks"
    process = start(folder, slurm, words, "sweep.name=grid", *LAUNCHER)
    sweep = folder / "outputs" / "kinds" / "grid"
    wait_until(lambda: num_epochs(sweep / "1") >= 2 and num_epochs(sweep / "2") >= 2, process)
    ids = job_ids(sweep)
    slurm.ask("scontrol", "requeue", raw_id(slurm, ids[1]))
    slurm.ask("scancel", "--signal=USR2", raw_id(slurm, ids[2]))
    shown = slurm.ask("scontrol", "show", "job")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, (output, errors)
    return sweep, output, shown, {number: restarts(slurm, job_id) for number, job_id in ids.items()}


@pytest.fixture(scope="module")
def undisturbed(slurm: LocalSlurm, folder: Path, swept: tuple[Path, str, str, dict[int, int]]) -> Path:
    """The same sweep, by processes of this machine."""
    process = start(folder, slurm, "experiment=seed0,seed1,seed2,seed3,two_tasks", "sweep.name=here")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, (output, errors)
    return swept[0].parent / "here"


def test_jobs_of_one_shape_are_an_array(swept: tuple[Path, str, str, dict[int, int]]) -> None:
    sweep, _, shown, _ = swept
    ids = job_ids(sweep)
    arrays = {job_id.partition("_")[0] for number, job_id in ids.items() if number < 4}
    assert len(arrays) == 1
    assert "_" not in ids[4]
    assert "NumTasks=2" in shown[shown.index(f"JobId={ids[4]} ") :]


def test_jobs_that_were_put_back_go_on(swept: tuple[Path, str, str, dict[int, int]], undisturbed: Path) -> None:
    sweep, output, _, started = swept
    assert started == {0: 0, 1: 1, 2: 1, 3: 0, 4: 0}
    assert "goes on" in output
    for number in range(5):
        assert status_of(sweep / str(number))["status"] == "finished"
        one, other = (pd.read_csv(run / str(number) / "history.csv") for run in (sweep, undisturbed))
        pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"), check_exact=True)
        states = [
            torch.load(run / str(number) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for run in (sweep, undisturbed)
        ]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert len(tracked_ids(sweep)) == 5, "one run in W&B for each, whatever happened to it"
    assert len(json.loads((sweep / "1" / "environment.json").read_text())["resumed"]) == 1
    assert sorted(path.name for path in sweep.glob("[0-9]*")) == ["0", "1", "2", "3", "4"]


def test_two_tasks_are_one_run(swept: tuple[Path, str, str, dict[int, int]]) -> None:
    run = swept[0] / "4"
    assert "Training on 2 x cpu" in (run / "console.log").read_text()
    assert (run / "console_1.log").is_file()
    split, predictions = (pd.read_csv(run / name) for name in ("split.csv", "predictions/val.csv"))
    assert sorted(predictions["image"]) == sorted(split.loc[split["split"] == "val", "image"])


def test_the_table_is_that_of_processes(swept: tuple[Path, str, str, dict[int, int]], undisturbed: Path) -> None:
    best = [
        {number: json.loads((run / str(number) / "metrics.json").read_text())["val"]["auroc"] for number in range(5)}
        for run in (swept[0], undisturbed)
    ]
    assert best[0] == best[1]
    assert "Sweep outputs/kinds/grid" in swept[1]


def test_a_sweep_whose_watcher_died_waits_for_its_jobs_again_and_says_how_they_failed(
    slurm: LocalSlurm, folder: Path
) -> None:
    words = ["experiment=endless,killed,too_few", "sweep.name=failures", *LAUNCHER]
    process = start(folder, slurm, *words)
    sweep = folder / "outputs" / "kinds" / "failures"
    wait_until(lambda: num_epochs(sweep / "0") >= 1 and num_epochs(sweep / "1") >= 1, process)
    wait_until(lambda: status_of(sweep / "2").get("status") == "failed", process)
    assert "data.split" in status_of(sweep / "2")["reason"]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    ids = job_ids(sweep)

    process = start(folder, slurm, *words)
    assert process.stdout is not None
    next(line for line in process.stdout if "experiment=endless" in line and "running as Slurm job" in line)
    os.kill(int(status_of(sweep / "1")["process"]), signal.SIGKILL)
    wait_until(lambda: status_of(sweep / "1")["status"] == "failed", process)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, (output, errors)
    assert {number: job_ids(sweep)[number] for number in (0, 1)} == {number: ids[number] for number in (0, 1)}
    assert status_of(sweep / "0")["status"] == "interrupted"
    assert status_of(sweep / "0")["exit_status"] == 143
    assert status_of(sweep / "1")["reason"] == "killed by SIGKILL (perhaps out of memory)"
    assert not slurm.ask("squeue", "--noheader")


def test_what_slurm_refuses_is_said_in_one_line(slurm: LocalSlurm, folder: Path) -> None:
    process = start(folder, slurm, "seed=1,2", "experiment=seed0", *LAUNCHER, "hydra.launcher.partition=nowhere")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1, errors
    assert "invalid partition" in errors
