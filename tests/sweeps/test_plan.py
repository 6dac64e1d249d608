"""Is a job of a sweep known by what it is, wherever it stands?"""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr.sweeps.plan import Place, find_places
from cxr.training.run_directory import RunDirectory, Status


def write_run(sweep_dir: Path, number: int, identity: str, status: Status) -> None:
    run = RunDirectory.take(sweep_dir / str(number))
    run.config_path.write_text(identity)
    run.write_status(status)


def places(sweep_dir: Path, *identities: str | None, first_number: int = 0) -> list[Place]:
    said: list[str] = []
    found = find_places(
        sweep_dir,
        identities,
        first_number,
        lambda run: run.config_path.read_text() if run.config_path.is_file() else None,
        said.append,
    )
    assert said == [], "nobody was waited for"
    return found


def test_new_jobs_get_their_own_numbers(tmp_path: Path) -> None:
    assert places(tmp_path, "a", "b", first_number=3) == [Place(3, "missing"), Place(4, "missing")]


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        ("finished", "finished"),
        ("interrupted", "stopped"),
        ("running", "stopped"),  # killed: nobody was left to write more
        ("failed", "stopped"),
        ("diverged", "diverged"),
    ],
)
def test_a_run_is_found_by_its_settings(tmp_path: Path, status: Status, standing: str) -> None:
    write_run(tmp_path, 0, "b", status)
    assert places(tmp_path, "a", "b") == [Place(2, "missing"), Place(0, standing)]


def test_a_new_job_never_gets_the_number_of_another_run(tmp_path: Path) -> None:
    write_run(tmp_path, 0, "of an earlier grid", "finished")
    write_run(tmp_path, 7, "b", "finished")
    assert places(tmp_path, "a", "b", "c") == [Place(8, "missing"), Place(7, "finished"), Place(2, "missing")]


def test_two_jobs_of_the_same_settings_are_two_runs(tmp_path: Path) -> None:
    write_run(tmp_path, 0, "a", "finished")
    assert places(tmp_path, "a", "a") == [Place(0, "finished"), Place(1, "missing")]


def test_what_was_refused_before_it_was_a_run_leaves_its_number(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "0").path.mkdir()
    RunDirectory(tmp_path / "0").write_status("failed", reason="no such device")
    assert places(tmp_path, "a") == [Place(0, "missing")]
    RunDirectory.take(tmp_path / "0")


def test_a_job_that_cannot_begin_takes_nobodys_run(tmp_path: Path) -> None:
    write_run(tmp_path, 0, "a", "finished")
    assert places(tmp_path, None, "a") == [Place(2, "missing"), Place(0, "finished")]
