"""Do two runs keep out of each other's way, and all of them within the folder that output was asked for in?"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from tests.fault.small_runs import PLAIN
from tests.programs import run, start

from cxr.training.run_directory import RunDirectory

pytestmark = pytest.mark.fault
TINY = [*PLAIN, "trainer.max_epochs=1", "logger=none"]


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _create(output: str, now: float, barrier: Barrier) -> None:
    # One clock and one number for all, as on two machines that share a disk.
    ticks = iter(tick / 1000 for tick in range(1000))
    barrier.wait()
    time.time, os.getpid = lambda: now + next(ticks), lambda: 7
    RunDirectory.create(output, "exp")
    os._exit(0)


def test_runs_of_one_millisecond_and_one_process_number_get_a_directory_each(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(8)
    now = time.time()
    processes = [fork.Process(target=_create, args=(str(tmp_path), now, barrier)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(list((tmp_path / "exp").iterdir())) == 8
    assert len(list(tmp_path.rglob("status.json"))) == 8


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Two trainings that start at once, with one folder for output and prepared images."""
    folder = tmp_path_factory.mktemp("together")
    running = [start("train.py", *TINY, f"seed={seed}", cwd=folder) for seed in (0, 1)]
    ended = [program.ended() for program in running]
    assert [each.returncode for each in ended] == [0, 0], [each.said for each in ended]
    return folder, [each.said for each in ended]


def test_two_trainings_that_start_together_keep_their_own_books(together: tuple[Path, list[str]]) -> None:
    folder, said = together
    places = sorted((folder / "outputs" / "demo").iterdir())
    assert len(places) == 2
    for place in places:
        assert RunDirectory(place).read_status()["status"] == "finished"
        (own,) = [each for each in said if place.name in each]
        assert f"\nseed: {said.index(own)}\n" in (place / "config.yaml").read_text()


def test_what_both_need_is_prepared_once(together: tuple[Path, list[str]]) -> None:
    cache = together[0] / "outputs" / "cache"
    assert len(list(cache.rglob("*.pixels"))) == 1
    assert not list(cache.rglob("*.partial"))
    (index,) = [path for path in cache.rglob("*.json") if path.with_suffix(".pixels").is_file()]
    json.loads(index.read_text())


@pytest.mark.parametrize("of", ["finished", "running"])
def test_a_used_run_directory_is_refused(of: str, together: tuple[Path, list[str]], tmp_path: Path) -> None:
    place = Path(shutil.copytree(min((together[0] / "outputs" / "demo").iterdir()), tmp_path / "outputs" / "run"))
    directory = RunDirectory(place)
    before = tree(place)
    if of == "finished":
        done = run("train.py", f"resume={place}", cwd=tmp_path)
    else:
        directory.write_status("interrupted")
        with directory.held():
            done = run("train.py", f"resume={place}", cwd=tmp_path)
    assert done.returncode == 2, done.said
    assert len(done.said.splitlines()) == 1
    assert str(place) in done.said
    assert tree(place) - {".lock"} == before - {".lock"}


LEADING_OUT = [
    ["name=../../x"],
    ["hydra.run.dir=../x"],
    ["hydra.output_subdir=../x"],
    ["hydra.job.name=../../x", "hydra/job_logging=default"],
    ["hydra.job_logging.handlers.file.filename=../x.log", "hydra/job_logging=default"],
    ["-m", "seed=0,1", "name=../x"],
    ["-m", "seed=0,1", "sweep.name=../../x"],
    ["-m", "seed=0,1", "hydra.sweep.dir=../x"],
    ["-m", "seed=0,1", "hydra.sweep.subdir=../../x"],
    ["-m", "seed=0,1", "hydra.sweep.subdir=${hydra.job.override_dirname}"],
]


@pytest.mark.parametrize("words", LEADING_OUT, ids=" ".join)
def test_no_override_leads_out_of_the_folder_of_the_output(words: list[str], tmp_path: Path) -> None:
    work = tmp_path / "a" / "b" / "runs"
    work.mkdir(parents=True)
    done = run("train.py", *TINY, *words, cwd=work)
    assert done.returncode == 2, done.said
    assert len(done.said.splitlines()) == 1
    assert any(word.partition("=")[0] in done.said for word in words)
    # Nothing outside of the output, and nothing by that name anywhere.
    made = tree(tmp_path) - {"a", "a/b", "a/b/runs"}
    assert not [name for name in made if not name.startswith("a/b/runs/outputs")]
    assert not [name for name in made if Path(name).name.startswith("x")]


def test_a_link_in_the_output_is_not_followed_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "linked").symlink_to(tmp_path / "elsewhere")
    done = run("train.py", *TINY, "name=linked", cwd=tmp_path)
    assert done.returncode == 2, done.said
    assert not list((tmp_path / "elsewhere").iterdir())


def test_results_of_another_collection_are_not_named_out_of_the_run(
    together: tuple[Path, list[str]], tmp_path: Path
) -> None:
    place = min((together[0] / "outputs" / "demo").iterdir())
    done = run("evaluate.py", f"run={place}", "data=phantom", "data.name=../../x", "trainer.gpus=0", cwd=tmp_path)
    assert done.returncode == 2, done.said
    assert "../../x" in done.said
    assert not [path for path in tree(tmp_path) if path.rpartition("/")[2].startswith("x")]
