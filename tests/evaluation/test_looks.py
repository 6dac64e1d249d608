from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from cxr.evaluation.looks import record_look

LOOK = {"checkpoint": "best.ckpt", "checkpoint_sha256": "ab" * 32, "num_images": 7}


def test_looks_are_counted_per_split_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "run" / "looks.csv"
    assert [record_look(path, split=split, **LOOK) for split in ("test", "val", "test")] == [1, 1, 2]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["test", "val", "test"]
    assert rows[0]["checkpoint_sha256"] == "ab" * 32
    assert rows[0]["num_images"] == "7"


def test_a_name_that_looks_like_a_formula_is_written_as_text_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "looks.csv"
    look = LOOK | {"checkpoint": "=1+1.ckpt"}
    assert [record_look(path, split="-ward", **look) for _ in range(2)] == [1, 2]
    with path.open(newline="", encoding="utf-8") as file:
        assert {(row["split"], row["checkpoint"]) for row in csv.DictReader(file)} == {("'-ward", "'=1+1.ckpt")}


def test_a_line_cut_off_by_a_crash_does_not_swallow_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "looks.csv"
    record_look(path, split="test", **LOOK)
    path.write_text(path.read_text(encoding="utf-8") + "2026-01-01T00:", encoding="utf-8")
    assert record_look(path, split="test", **LOOK) == 2


def test_processes_that_look_at_once_each_leave_a_line(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cxr.evaluation.looks import record_look\n"
        "for _ in range(20): record_look(Path(sys.argv[1]), split='test', checkpoint='c', checkpoint_sha256='0', "
        "num_images=1)"
    )
    path = tmp_path / "looks.csv"
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert record_look(path, split="test", **LOOK) == 61
    assert len(path.read_text(encoding="utf-8").splitlines()) == 62
