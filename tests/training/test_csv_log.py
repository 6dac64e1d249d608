"""Is what a run has logged as a table still there, whatever ends the run?"""

from __future__ import annotations

import csv
import resource
from pathlib import Path

import pytest
from tests.programs import fork_server

from cxr.training.csv_log import DurableCSVLogger

pytestmark = pytest.mark.fault

BEFORE = [{"train/loss_step": f"{0.5 + step / 100}", "step": f"{step}"} for step in range(50)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def log(folder: Path) -> DurableCSVLogger:
    logger = DurableCSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)
    for row in BEFORE:
        logger.log_metrics({"train/loss_step": float(row["train/loss_step"])}, int(row["step"]))
    return logger


def log_a_new_column_where_the_disk_is_full(folder: Path) -> None:
    logger = log(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    with pytest.raises(OSError, match="File too large"):
        logger.log_metrics({"val/loss": 0.25}, 50)


def test_a_new_column_that_cannot_be_written_costs_no_row(tmp_path: Path) -> None:
    process = fork_server().Process(target=log_a_new_column_where_the_disk_is_full, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert rows_of(tmp_path / "metrics.csv") == BEFORE
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_rows_from_before_a_new_column_have_nothing_in_it(tmp_path: Path) -> None:
    logger = log(tmp_path)
    logger.log_metrics({"val/loss": 0.25}, 50)
    logger.log_metrics({"train/loss_step": 0.125}, 51)
    expected = [{**row, "val/loss": ""} for row in BEFORE]
    expected += [{"train/loss_step": "", "val/loss": "0.25", "step": "50"}]
    expected += [{"train/loss_step": "0.125", "val/loss": "", "step": "51"}]
    assert rows_of(tmp_path / "metrics.csv") == expected
