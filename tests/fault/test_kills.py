"""Does a run that was killed, or told to end, go on as the same run, and does it refuse what would be another?"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from tests.fault.kill_at_random import KINDS, differences, disturb, train_undisturbed
from tests.fault.kill_at_random import Undisturbed as RandomlyUndisturbed
from tests.fault.small_runs import TINY, num_checkpoints, the_run
from tests.programs import Program, run, start

from cxr.interruption import asked
from cxr.training.checkpoint_io import DurableCheckpointIO
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory

pytestmark = pytest.mark.fault

Undisturbed = tuple[Path, list[str]]


# ------------------------------------------------------------------------------------------------- killed, and goes on


STAGES = "2 workers, stages, average, cutmix, early stopping"


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[RandomlyUndisturbed, list[str]]:
    """A run of several stages, with loader processes, that nobody disturbed, and its words."""
    folder = tmp_path_factory.mktemp("staged")
    words = [*TINY, f"paths.cache={folder / 'cache'}", *KINDS[STAGES]]
    return train_undisturbed(words, folder), words


def test_killed_at_random_a_run_goes_on_as_itself(
    staged: tuple[RandomlyUndisturbed, list[str]], tmp_path: Path
) -> None:
    expected, words = staged
    # Where a run is over before its moment has come there is no kill.
    tries = (disturb(STAGES, words, expected, tmp_path / str(seed), random.Random(seed), 2) for seed in range(8))
    kills = next(filter(None, tries))
    assert [kill.wrong for kill in kills] == [[]] * len(kills)


def tell_in_step(epoch: int, batch: int) -> None:
    """Let SIGTERM come in a certain step, as if from outside."""
    step = CXRModule.training_step

    def told(self: CXRModule, content: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (epoch, batch):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, content, batch_idx)

    CXRModule.training_step = told  # type: ignore[method-assign]


def test_told_to_end_in_a_stage_a_run_goes_on_with_the_next_batch(
    staged: tuple[RandomlyUndisturbed, list[str]], tmp_path: Path
) -> None:
    expected, words = staged
    program = start("train.py", *words, cwd=tmp_path, prepare=tell_in_step, given=(2, 1))
    assert program.wait() == 143, program.said
    run_dir = the_run(tmp_path)
    history = pd.read_csv(run_dir / "history.csv")
    step = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert (len(history), step) == (2, history["step"].iloc[-1] + 1), "two batches, a step, in the third epoch"
    done = run("train.py", f"resume={run_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.said
    assert "Resumes in epoch 3 of 4 at batch 3 of" in done.said
    assert differences(expected.run_dir, run_dir) == []


def die_at(place: str) -> None:
    """Let this process kill itself at some place of the second writing of last.ckpt."""
    numbers: list[int] = []
    save_checkpoint, save, replace = DurableCheckpointIO.save_checkpoint, torch.save, Path.replace

    def die_if(here: bool) -> None:
        if here and len(numbers) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def saves_checkpoint(self: Any, content: Any, path: Any, *given: Any, **named: Any) -> None:
        if Path(path).name == "last.ckpt":
            numbers.append(1)
        save_checkpoint(self, content, path, *given, **named)

    def saves(content: Any, stream: Any) -> None:
        if place == "in the middle":
            write = stream.write

            def writes(data: Any) -> int:
                written: int = write(data)
                die_if(True)
                return written

            stream.write = writes
        save(content, stream)

    def replaces(self: Path, target: Any) -> Path:
        die_if(place == "before the renaming")
        moved = replace(self, target)
        die_if(place == "between the renamings" and Path(target).name == "last_previous.ckpt")
        return moved

    DurableCheckpointIO.save_checkpoint = saves_checkpoint  # type: ignore[method-assign]
    torch.save, Path.replace = saves, replaces  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("place", ["in the middle", "before the renaming", "between the renamings"])
def test_killed_while_a_checkpoint_is_written_it_goes_on_as_itself(
    undisturbed: Undisturbed, tmp_path: Path, place: str
) -> None:
    expected, words = undisturbed
    program = start("train.py", *words, cwd=tmp_path, prepare=die_at, given=(place,))
    assert program.wait() == -signal.SIGKILL, program.said
    run_dir = the_run(tmp_path)
    told = RunDirectory(run_dir).find_status()
    assert told["status"] == "failed"
    assert "killed" in told["reason"]
    done = run("train.py", *words, "resume=auto", cwd=tmp_path)
    assert done.returncode == 0, done.said
    assert f"goes on with {os.path.relpath(run_dir, tmp_path)} (failed: killed: process" in done.said
    assert differences(expected, run_dir) == []


def stop_after(program: Program, epochs: int) -> Path:
    """Wait for so many epochs and the checkpoint of the last; the run directory."""
    program.wait_until(lambda: num_checkpoints(program.folder) >= epochs)
    return the_run(program.folder)


def test_killed_behind_its_last_epoch_only_the_report_is_left(undisturbed: Undisturbed, tmp_path: Path) -> None:
    expected, words = undisturbed
    program = start("train.py", *words, cwd=tmp_path, prepare=die_in_report)
    assert program.wait() == -signal.SIGKILL
    done = run("train.py", *words, "resume=auto", cwd=tmp_path)
    assert done.returncode == 0, done.said
    assert "All 4 epochs were done before" in done.said
    assert differences(expected, the_run(tmp_path)) == []


def die_in_report() -> None:
    import cxr.report

    cxr.report.report_run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


def test_the_same_command_finds_its_run_or_begins_one(undisturbed: Undisturbed, tmp_path: Path) -> None:
    expected, words = undisturbed
    program = start("train.py", *words, cwd=tmp_path)
    run_dir = stop_after(program, 1)
    program.kill()
    older = shutil.copytree(run_dir, run_dir.with_name(f"0{run_dir.name}"))
    before = contents_of(older)

    done = run("train.py", *words, "data.batch_size=4", "seed=3", "trainer.max_epochs=1", "resume=auto", cwd=tmp_path)
    assert done.returncode == 0, done.said
    (line,) = (line for line in done.said.splitlines() if line.startswith("resume=auto"))
    assert "no unfinished run of these settings in outputs/demo; a new one begins" in line
    assert f"(the newest unfinished, outputs/demo/{run_dir.name}, has others:" in line
    assert all(change in line for change in ("seed: 0 -> 3", "data.batch_size: 8 -> 4", "trainer.max_epochs: 4 -> 1"))

    done = run("train.py", *words, "data.num_workers=2", "resume=auto", cwd=tmp_path)
    assert done.returncode == 0, done.said
    assert f"goes on with outputs/demo/{run_dir.name}" in done.said
    assert "Resumes in epoch" in done.said
    assert contents_of(older) == before
    assert differences(expected, run_dir) == []

    shutil.rmtree(older)
    program = start("train.py", *words, "resume=auto", cwd=tmp_path)
    program.wait_until(lambda: "has these settings and is finished)" in program.said.rpartition("resume=auto")[2])
    program.kill()


def contents_of(folder: Path) -> dict[str, str]:
    """Every file below a folder, and a word for what it holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def stopped(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that was killed after its first epoch, and its words; nothing goes on with it."""
    folder = tmp_path_factory.mktemp("stopped")
    program = start("train.py", *undisturbed[1], cwd=folder)
    run_dir = stop_after(program, 1)
    program.kill()
    return run_dir, undisturbed[1]


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ("data.batch_size=16", "data.batch_size: 8 -> 16"),
        ("trainer.max_epochs=9", "trainer.max_epochs: 4 -> 9"),
        ("data.positive=other", "data.positive: covid -> other"),
        ("data.sources.phantom.num_patients=31", "data.sources.phantom.num_patients: 40 -> 31"),
    ],
)
def test_what_would_make_it_another_run_is_refused_old_against_new(
    stopped: tuple[Path, list[str]], tmp_path: Path, change: str, listed: str
) -> None:
    before = contents_of(stopped[0])
    done = run("train.py", f"resume={stopped[0]}", change, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.said.splitlines()) == 1
    assert listed in done.said
    assert contents_of(stopped[0]) == before


def test_other_files_under_the_old_names_are_refused(stopped: tuple[Path, list[str]], tmp_path: Path) -> None:
    run_dir = shutil.copytree(stopped[0], tmp_path / "run")
    before = next(word for word in stopped[1] if word.startswith("paths.cache=")).partition("=")[2]
    cache = shutil.copytree(before, tmp_path / "cache")
    drawings = sorted(cache.glob("phantom-*/**/*.png"))
    shutil.copy(drawings[1], drawings[0])
    done = run("train.py", f"resume={run_dir}", f"paths.cache={cache}", cwd=tmp_path)
    assert done.returncode == 3
    assert "the checkpoint: 1 of" in done.said.splitlines()[-1]
    assert "files are not those that were divided" in done.said.splitlines()[-1]
    kept, refused = contents_of(stopped[0]), contents_of(run_dir)
    assert all(refused[name] == kept[name] for name in kept if name.endswith((".csv", ".ckpt", "config.yaml")))


# --------------------------------------------------------------------------------------------------------- signals


LONG = [*TINY, "trainer.max_epochs=1000"]


def wait_in_step(seconds: float) -> None:
    """Let a step of the second epoch last until a signal comes, and so long behind it."""
    step = CXRModule.training_step

    def waits(self: CXRModule, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch >= 1:
            Path("in_step").touch()
            while asked() is None:
                time.sleep(0.01)
            time.sleep(seconds)
        return step(self, batch, batch_idx)

    CXRModule.training_step = waits  # type: ignore[method-assign]


def in_a_step(undisturbed: Undisturbed, folder: Path, seconds: float = 0.2) -> Program:
    """A training in the middle of a step of its second epoch."""
    cache = next(word for word in undisturbed[1] if word.startswith("paths.cache="))
    program = start("train.py", *LONG, cache, cwd=folder, prepare=wait_in_step, given=(seconds,))
    program.wait_until((folder / "in_step").exists)
    return program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_it_at_the_next_step_with_a_checkpoint(
    undisturbed: Undisturbed, tmp_path: Path, number: signal.Signals
) -> None:
    program = in_a_step(undisturbed, tmp_path)
    program.tell(number)
    assert program.wait() == 128 + number, program.said
    run_dir = the_run(program.folder)
    told = RunDirectory(run_dir).read_status()
    assert (told["status"], told["exit_status"]) == ("interrupted", 128 + number)
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    batches = last["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert last["epoch"] == 1
    assert batches["current"]["processed"] == 1, "the step that it was in is whole, and no other began"


def test_a_second_ctrl_c_leaves_at_once_and_touches_no_file(undisturbed: Undisturbed, tmp_path: Path) -> None:
    program = in_a_step(undisturbed, tmp_path, 60)
    run_dir = the_run(program.folder)
    before = contents_of(run_dir)
    program.tell(signal.SIGINT)
    time.sleep(0.6)  # sooner it would be the same one, handed on by another program
    program.tell(signal.SIGINT)
    assert program.wait(10) == 130
    assert contents_of(run_dir) == before
    run = RunDirectory(run_dir)
    assert run.read_status()["status"] == "running", "nobody was left to write that it ended"
    told = run.find_status()
    assert told["status"] == "failed"
    assert f"process {program.number} is gone" in told["reason"]


def test_a_run_that_lives_is_said_to_run_and_is_left_alone(undisturbed: Undisturbed, tmp_path: Path) -> None:
    program = in_a_step(undisturbed, tmp_path)
    run_dir = the_run(program.folder)
    words = [*LONG, f"paths.cache={yaml.safe_load((run_dir / 'config.yaml').read_text())['paths']['cache']}"]
    assert RunDirectory(run_dir).find_status()["status"] == "running"
    done = run("train.py", *words, "resume=auto", cwd=program.folder)
    assert done.returncode == 2
    assert f"a living process (number {program.number}) writes it" in done.said.splitlines()[-1]
    program.kill()
    assert RunDirectory(run_dir).find_status()["status"] == "failed"
