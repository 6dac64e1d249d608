from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cxr.errors import DataError
from cxr.evaluation.metrics_file import merge_metrics, read_metrics


def test_splits_are_merged_and_the_last_look_replaces_its_own_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    merge_metrics(path, "val", {"auroc": {"value": 0.9}})
    merge_metrics(path, "test", {"auroc": {"value": 0.7}})
    merge_metrics(path, "test", {"auroc": {"value": 0.8}})
    assert read_metrics(path) == {"val": {"auroc": {"value": 0.9}}, "test": {"auroc": {"value": 0.8}}}


def test_processes_that_write_at_once_keep_each_others_splits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    program = (
        "import sys; from pathlib import Path; from cxr.evaluation.metrics_file import merge_metrics\n"
        "for n in range(10): merge_metrics(Path(sys.argv[1]), f'{sys.argv[2]}{n}', {})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert sorted(read_metrics(path)) == sorted(f"{name}{n}" for name in "ab" for n in range(10))


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_damaged_file_is_never_overwritten(content: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.json"):
        merge_metrics(path, "test", {})
    assert path.read_text(encoding="utf-8") == content


def test_a_number_that_is_not_finite_is_refused_and_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    merge_metrics(path, "val", {"auroc": {"value": 0.9}})
    with pytest.raises(ValueError, match="JSON"):
        merge_metrics(path, "test", {"auroc": {"value": float("nan")}})
    assert list(read_metrics(path)) == ["val"]
