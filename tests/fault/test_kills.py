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

import pytest
import torch
import yaml
from tests.fault.forked import TINY, Forked, run, start, the_run
from tests.fault.kill_at_random import KINDS, differences, disturb, train_undisturbed

from cxr.interruption import asked
from cxr.training.checkpoint_io import DurableCheckpointIO
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory

pytestmark = pytest.mark.fault

Undisturbed = tuple[Path, list[str]]


# ------------------------------------------------------------------------------------------------- killed, and goes on


def test_killed_at_random_a_run_goes_on_as_itself(tmp_path: Path) -> None:
    kind = "2 workers, oversampling, augmentation"
    words = [*TINY, f"paths.cache={tmp_path / 'cache'}", *KINDS[kind]]
    expected = train_undisturbed(words, tmp_path / "undisturbed")
    kills = disturb(kind, words, expected, tmp_path / "killed", random.Random(1), 2)
    assert kills
    assert [kill.wrong for kill in kills] == [[]] * len(kills)


def die_at(place: str) -> None:
    """Let this process kill itself at some place of the second writing of last.ckpt."""
    numbers: list[int] = []
    save_checkpoint, save, replace = DurableCheckpointIO.save_checkpoint, torch.save, Path.replace

    def die_if(here: bool) -> None:
        if here and len(numbers) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def saves_checkpoint(self: Any, content: Any, path: Any, *given: Any) -> None:
        if Path(path).name == "last.ckpt":
            numbers.append(1)
        save_checkpoint(self, content, path, *given)

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
    assert start(words, tmp_path, die_at, place).wait() == -signal.SIGKILL
    run_dir = the_run(tmp_path)
    told = RunDirectory(run_dir).find_status()
    assert told["status"] == "failed"
    assert "killed" in told["reason"]
    status, said = run([*words, "resume=auto"], tmp_path)
    assert status == 0, said
    assert f"goes on with {os.path.relpath(run_dir, tmp_path)} (failed: killed: process" in said
    assert differences(expected, run_dir) == []


def stop_after(forked: Forked, epochs: int) -> Path:
    """Wait for so many epochs; the run directory."""

    def done() -> bool:
        found = list(forked.folder.glob("outputs/demo/*/history.csv"))
        return bool(found) and len(found[0].read_text().splitlines()) > epochs

    forked.wait_until(done)
    return the_run(forked.folder)


def test_killed_behind_its_last_epoch_only_the_report_is_left(undisturbed: Undisturbed, tmp_path: Path) -> None:
    expected, words = undisturbed
    forked = start(words, tmp_path, die_in_report)
    assert forked.wait() == -signal.SIGKILL
    status, said = run([*words, "resume=auto"], tmp_path)
    assert status == 0, said
    assert "All 4 epochs were done before" in said
    assert differences(expected, the_run(tmp_path)) == []


def die_in_report() -> None:
    import cxr.report

    cxr.report.report_run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


def test_the_same_command_finds_its_run_or_begins_one(undisturbed: Undisturbed, tmp_path: Path) -> None:
    expected, words = undisturbed
    forked = start(words, tmp_path)
    run_dir = stop_after(forked, 1)
    forked.kill()
    older = shutil.copytree(run_dir, run_dir.with_name(f"0{run_dir.name}"))
    before = contents_of(older)

    status, said = run([*words, "data.batch_size=4", "seed=3", "trainer.max_epochs=1", "resume=auto"], tmp_path)
    assert status == 0, said
    (line,) = (line for line in said.splitlines() if line.startswith("resume=auto"))
    assert "no unfinished run of these settings in outputs/demo; a new one begins" in line
    assert f"(the newest unfinished, outputs/demo/{run_dir.name}, has others:" in line
    assert all(change in line for change in ("seed: 0 -> 3", "data.batch_size: 8 -> 4", "trainer.max_epochs: 4 -> 1"))

    status, said = run([*words, "data.num_workers=2", "resume=auto"], tmp_path)
    assert status == 0, said
    assert f"goes on with outputs/demo/{run_dir.name}" in said
    assert "Resumes in epoch" in said
    assert contents_of(older) == before
    assert differences(expected, run_dir) == []

    shutil.rmtree(older)
    forked = start([*words, "resume=auto"], tmp_path)
    forked.wait_until(lambda: "has these settings and is finished)" in forked.console.rpartition("resume=auto")[2])
    forked.kill()


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
    forked = start(undisturbed[1], folder)
    run_dir = stop_after(forked, 1)
    forked.kill()
    return run_dir, undisturbed[1]


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ("data.batch_size=16", "data.batch_size: 8 -> 16"),
        ("trainer.max_epochs=9", "trainer.max_epochs: 4 -> 9"),
        ("data.positive=other", "data.positive: covid -> other"),
        ("data.sources.phantom.num_patients=31", "data.sources.phantom.num_patients: 30 -> 31"),
    ],
)
def test_what_would_make_it_another_run_is_refused_old_against_new(
    stopped: tuple[Path, list[str]], tmp_path: Path, change: str, listed: str
) -> None:
    before = contents_of(stopped[0])
    status, said = run([f"resume={stopped[0]}", change], tmp_path)
    assert status == 2
    assert len(said.splitlines()) == 1
    assert listed in said
    assert contents_of(stopped[0]) == before


def test_other_files_under_the_old_names_are_refused(stopped: tuple[Path, list[str]], tmp_path: Path) -> None:
    run_dir = shutil.copytree(stopped[0], tmp_path / "run")
    before = next(word for word in stopped[1] if word.startswith("paths.cache=")).partition("=")[2]
    cache = shutil.copytree(before, tmp_path / "cache")
    drawings = sorted(cache.glob("phantom-*/**/*.png"))
    shutil.copy(drawings[1], drawings[0])
    status, said = run([f"resume={run_dir}", f"paths.cache={cache}"], tmp_path)
    assert status == 3
    assert "the checkpoint: 1 of" in said.splitlines()[-1]
    assert "files are not those that were divided" in said.splitlines()[-1]
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


def in_a_step(undisturbed: Undisturbed, folder: Path, seconds: float = 0.2) -> Forked:
    """A training in the middle of a step of its second epoch."""
    cache = next(word for word in undisturbed[1] if word.startswith("paths.cache="))
    forked = start([*LONG, cache], folder, wait_in_step, seconds)
    forked.wait_until((folder / "in_step").exists)
    return forked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_it_at_the_next_step_with_a_checkpoint(
    undisturbed: Undisturbed, tmp_path: Path, number: signal.Signals
) -> None:
    forked = in_a_step(undisturbed, tmp_path)
    forked.tell(number)
    assert forked.wait() == 128 + number, forked.console
    run_dir = the_run(forked.folder)
    told = RunDirectory(run_dir).read_status()
    assert (told["status"], told["exit_status"]) == ("interrupted", 128 + number)
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    batches = last["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert last["epoch"] == 1
    assert batches["current"]["processed"] == 1, "the step that it was in is whole, and no other began"


def test_a_second_ctrl_c_leaves_at_once_and_touches_no_file(undisturbed: Undisturbed, tmp_path: Path) -> None:
    forked = in_a_step(undisturbed, tmp_path, 60)
    run_dir = the_run(forked.folder)
    before = contents_of(run_dir)
    forked.tell(signal.SIGINT)
    time.sleep(0.6)  # sooner it would be the same one, handed on by another program
    forked.tell(signal.SIGINT)
    assert forked.wait(10) == 130
    assert contents_of(run_dir) == before
    run = RunDirectory(run_dir)
    assert run.read_status()["status"] == "running", "nobody was left to write that it ended"
    told = run.find_status()
    assert told["status"] == "failed"
    assert f"process {forked.number} is gone" in told["reason"]


def test_a_run_that_lives_is_said_to_run_and_is_left_alone(undisturbed: Undisturbed, tmp_path: Path) -> None:
    forked = in_a_step(undisturbed, tmp_path)
    run_dir = the_run(forked.folder)
    words = [*LONG, f"paths.cache={yaml.safe_load((run_dir / 'config.yaml').read_text())['paths']['cache']}"]
    assert RunDirectory(run_dir).find_status()["status"] == "running"
    status, said = run([*words, "resume=auto"], forked.folder)
    assert status == 2
    assert f"a living process (number {forked.number}) writes it" in said.splitlines()[-1]
    forked.kill()
    assert RunDirectory(run_dir).find_status()["status"] == "failed"
