"""Is a checkpoint whole, or else found out, and does a run outlive one that is damaged?"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fault.kill_at_random import differences, same_content
from tests.fault.small_runs import num_checkpoints, the_run
from tests.programs import fork_server, run, start

from cxr.errors import CheckpointError, DivergedError
from cxr.training.checkpoint_io import DurableCheckpointIO, require_whole
from cxr.training.run_directory import RunDirectory

pytestmark = pytest.mark.fault

Undisturbed = tuple[Path, list[str]]


def content(**more: Any) -> dict[str, Any]:
    """A small checkpoint."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer{number}.weight": torch.randn(5, 7, generator=generator) for number in range(3)}
    return {"epoch": 3, "state_dict": weights, "classes": ["covid", "other"], **more}


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_flipped_bit_never_becomes_another_content(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content(), path)
    whole, rng = path.read_bytes(), random.Random(0)
    found = 0
    places = rng.sample(range(len(whole)), 400)
    for place in places:
        flip(path, place, rng.randrange(8))
        try:
            require_whole(path)
        except CheckpointError:
            found += 1
        else:  # in what fills a gap, or in a time stamp: nothing is read from there
            assert same_content(loaded(path), content())
        path.write_bytes(whole)
    assert found > len(places) / 2


def test_what_was_cut_off_anywhere_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content(), path)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 16), *range(len(whole) - 50, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            require_whole(path)


def test_the_one_before_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "last_previous.ckpt"
    writer = DurableCheckpointIO({last.name: previous.name})
    for epoch in range(3):
        writer.save_checkpoint(content(epoch=epoch), last)
    assert (loaded(last)["epoch"], loaded(previous)["epoch"]) == (2, 1)
    assert names_in(tmp_path) == ["last.ckpt", "last_previous.ckpt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["state_dict", "current_model_state", "optimizer_states"])
def test_numbers_that_are_not_finite_never_take_the_place_of_good_ones(tmp_path: Path, part: str, value: float) -> None:
    path = tmp_path / "best.ckpt"
    writer = DurableCheckpointIO()
    writer.save_checkpoint(content(), path)
    broken = torch.ones(4)
    broken[2] = value
    parts: dict[str, Any] = {
        "state_dict": {"a": torch.ones(2), "b": broken},
        "current_model_state": {"b": broken},
        "optimizer_states": [{"state": {0: {"exp_avg": broken}}}],
    }
    with pytest.raises(DivergedError, match=r"best\.ckpt keeps what it held"):
        writer.save_checkpoint(content(**{part: parts[part]}), path)
    assert same_content(loaded(path), content())
    assert names_in(tmp_path) == ["best.ckpt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    path = small_disk / "last.ckpt"
    writer = DurableCheckpointIO({path.name: "last_previous.ckpt"})
    writer.save_checkpoint(content(), path)
    with pytest.raises(CheckpointError, match="No space left"):
        writer.save_checkpoint(content(more=torch.zeros(1_000_000)), path)
    assert same_content(loaded(path), content())
    assert names_in(small_disk) == ["last.ckpt"]
    writer.save_checkpoint(content(epoch=4), path)  # there is room again
    assert loaded(path)["epoch"] == 4


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def write_under_a_limit(path: Path, tensor_size: int) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process dies of it
    limit_files(100_000)
    DurableCheckpointIO().save_checkpoint(content(more=torch.zeros(tensor_size)), path)


def test_a_file_that_may_not_grow_leaves_what_was_there(tmp_path: Path) -> None:

    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(content(), path)
    process = fork_server().Process(target=write_under_a_limit, args=(path, 1_000_000))
    process.start()
    process.join(60)
    assert process.exitcode == 1, "it raised"
    assert same_content(loaded(path), content())
    assert names_in(tmp_path) == ["last.ckpt"]


def stopped_run(words: list[str], folder: Path, epochs: int = 2) -> Path:
    """A run that was killed after so many epochs."""
    program = start("train.py", *words, cwd=folder)
    program.wait_until(lambda: num_checkpoints(folder) >= epochs)
    program.kill()
    return the_run(folder)


@pytest.mark.parametrize("damage", ["flipped", "cut off", "gone"])
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(
    undisturbed: Undisturbed, tmp_path: Path, damage: str
) -> None:
    expected, words = undisturbed
    run_dir = stopped_run(words, tmp_path)
    last = run_dir / "checkpoints" / "last.ckpt"
    if damage == "flipped":
        flip(last, last.stat().st_size // 2, 3)
    elif damage == "gone":
        last.unlink()
    else:
        os.truncate(last, last.stat().st_size // 3)
    (run_dir / "checkpoints" / ".last.ckpt.abc.part").write_bytes(b"what a killed write left")
    done = run("train.py", f"resume={run_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.said
    if damage == "gone":
        assert "damaged" not in done.said
    else:
        assert "warning: " in done.said
        assert "last.ckpt: is damaged" in done.said
        (run_dir / "checkpoints" / "last.ckpt.damaged").unlink()
    assert "Resumes in epoch 2 of 4 at batch 1 of" in done.said
    assert differences(expected, run_dir) == []


def test_where_no_checkpoint_is_whole_a_run_does_not_go_on(undisturbed: Undisturbed, tmp_path: Path) -> None:
    run_dir = stopped_run(undisturbed[1], tmp_path, epochs=1)
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        flip(path, path.stat().st_size // 2, 0)
    done = run("train.py", f"resume={run_dir}", cwd=tmp_path)
    assert done.returncode == 5
    assert "last.ckpt: is damaged" in done.said.splitlines()[-1]


def test_damaged_weights_are_neither_evaluated_nor_trained_from(undisturbed: Undisturbed, tmp_path: Path) -> None:
    run_dir = shutil.copytree(undisturbed[0], tmp_path / "copied")
    best = run_dir / "checkpoints" / "best.ckpt"
    flip(best, best.stat().st_size // 2, 7)
    done = run("evaluate.py", f"run={run_dir}", "trainer.gpus=0", cwd=tmp_path)
    assert done.returncode == 5
    assert "best.ckpt: is damaged" in done.said.splitlines()[-1]
    done = run("train.py", *undisturbed[1], f"model.weights={best}", cwd=tmp_path)
    assert done.returncode == 5
    assert "best.ckpt: is damaged" in done.said.splitlines()[-1]


def test_a_run_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_room(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    expected, words = undisturbed
    disk = tmp_path / "outputs"
    disk.mkdir()
    size = sum(path.stat().st_size for path in expected.rglob("*") if path.is_file())
    # Room for a run with one checkpoint more than it has in the end; then somebody else takes the rest.
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={2 * size}", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        program = start("train.py", *words, cwd=tmp_path)
        program.wait_until(lambda: num_checkpoints(tmp_path) >= 1)
        with (disk / "filler").open("wb", buffering=0) as filler:
            fill(filler)
            while not program.has_ended():
                fill(filler)
        run_dir = the_run(tmp_path)
        told = RunDirectory(run_dir).find_status()
        assert program.wait() in (1, 5), program.said  # 5 where it was a checkpoint
        assert "No space left on device" in program.said.splitlines()[-1]
        assert told["status"] == "failed"
        require_whole(run_dir / "checkpoints" / "last.ckpt")
        (disk / "filler").unlink()
        done = run("train.py", *words, "resume=auto", cwd=tmp_path)
        assert done.returncode == 0, done.said
        assert differences(expected, run_dir) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(file: Any) -> None:
    """Take all room that there is."""
    for size in (1 << 20, 1 << 12):
        try:
            while True:
                file.write(bytes(size))
        except OSError:
            pass
