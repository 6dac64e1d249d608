from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from cxr.errors import ConfigurationError
from cxr.files import write_atomically
from cxr.training.run_directory import RunDirectory


def _create(output_dir: str) -> str:
    return str(RunDirectory.create(output_dir, "exp").path)


def test_a_run_lies_under_its_name_and_says_that_it_runs(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "sub/exp")
    assert run.path.parent == tmp_path / "sub" / "exp"
    assert run.checkpoints_dir.is_dir()
    assert run.figures_dir.is_dir()
    assert run.predictions_dir.is_dir()
    assert run.read_status()["status"] == "running"


def test_runs_that_start_together_never_share_a_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        paths = list(processes.map(_create, [str(tmp_path)] * 6))
    with ThreadPoolExecutor(8) as threads:
        paths += threads.map(_create, [str(tmp_path)] * 24)
    assert len(set(paths)) == 30
    assert len(list((tmp_path / "exp").iterdir())) == 30


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc/x", "", ".", "a//b", "a\\..\\b", "a\nb"])
def test_a_name_never_leads_out_of_the_output(tmp_path: Path, name: str) -> None:
    output_dir = tmp_path / "outputs"
    with pytest.raises(ConfigurationError):
        RunDirectory.create(output_dir, name)
    assert list(tmp_path.iterdir()) == []


def test_a_link_out_of_the_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs" / "exp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="leads out"):
        RunDirectory.create(tmp_path / "outputs", "exp")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "exp").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError):
        RunDirectory.create(tmp_path, "exp")


def test_a_given_directory_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    run = RunDirectory.take(tmp_path / "0")
    assert run.read_status()["status"] == "running"
    with pytest.raises(ConfigurationError, match="holds a run already"):
        RunDirectory.take(tmp_path / "0")


def test_a_run_that_was_killed_before_it_said_anything_has_said_nothing(tmp_path: Path) -> None:
    (tmp_path / "status.json").touch()  # the file is made first, by whoever may own the directory
    assert RunDirectory(tmp_path).find_status() == {}


def test_a_status_is_replaced_whole(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "exp")
    run.write_status("diverged", reason="loss is nan", exit_status=4)
    content = json.loads(run.status_path.read_text(encoding="utf-8"))
    assert (content["status"], content["reason"], content["exit_status"]) == ("diverged", "loss is nan", 4)
    assert [path.name for path in run.path.glob(".*")] == []


def test_a_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


def test_a_further_process_joins_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "CXR_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert RunDirectory.join() is None
    run = RunDirectory.create(tmp_path, "exp")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert RunDirectory.join() is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    joined = RunDirectory.join()
    assert joined is not None
    assert joined.path == run.path
    monkeypatch.delenv("CXR_RUN_DIR")
    with pytest.raises(ConfigurationError, match="LOCAL_RANK=1"):
        RunDirectory.join()


def test_nothing_heavy_is_imported() -> None:
    program = "import sys, cxr.training.run_directory; print('torch' in sys.modules, 'pandas' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
