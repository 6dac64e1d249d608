from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from tests.programs import run as run_program

from cxr.errors import ConfigurationError
from cxr.training import tracking
from cxr.training.callbacks import BestCheckpoint
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.shared_settings import NOT_SENT
from cxr.training.tracked_run import recall, remember
from cxr.training.tracking import MAX_NAME, build_logger, finish, summarise
from cxr.training.trainer import build_trainer
from cxr.training.wandb_account import has_key

CONFIG = {"optimizer": {"lr": 0.001}, "data": {"views": ["PA"]}, "seed": 0}


pytestmark = pytest.mark.usefixtures("no_wandb_account")


@pytest.fixture
def inspect(inspect_wandb: Callable[[Path], list[dict[str, Any]]]) -> Callable[[Path], list[dict[str, Any]]]:
    """Reads the one offline run under a folder."""

    def inspect_one(tracking_dir: Path) -> list[dict[str, Any]]:
        (run,) = (tracking_dir / "wandb").glob("offline-run-*")
        return inspect_wandb(run)

    return inspect_one


def _of(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def test_an_offline_run_holds_what_was_trained(
    tmp_path: Path,
    make_module: Callable[..., CXRModule],
    loader: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    inspect: Callable[[Path], list[dict[str, Any]]],
) -> None:
    run = RunDirectory.create(tmp_path, "exp")
    logger = build_logger(
        "wandb",
        tracking_dir=run.tracking_dir,
        config={**CONFIG, "paths": {"data": "/home/jane.doe"}, "model": {"weights": "/home/jane.doe/w.pt"}},
        name="first",
        group="sweep",
        tags=["a"],
        notes="why",
    )
    said = capsys.readouterr().err
    assert "cxr.sync" in said
    assert "wandb leet" in said
    assert len(said.splitlines()) == 1
    trainer = build_trainer(run_dir=run, max_epochs=2, gpus=0, progress=False, logger=logger, log_every_n_steps=2)
    trainer.fit(make_module(), loader([0, 1] * 8), loader([0, 1] * 4, seed=2))
    best = next(each for each in trainer.callbacks if isinstance(each, BestCheckpoint))
    summarise(logger, best.best_metrics, best.best_epoch)
    finish(logger, 3, status="failed", reason="DataError")

    records = inspect(run.tracking_dir)
    about = _of(records, "run")[0]
    config = {name: value for name, value in about["config"]["update"].items() if name != "_wandb"}
    assert config == {**CONFIG, "paths": {"data": NOT_SENT}, "model": {"weights": NOT_SENT}}
    assert (about["display_name"], about["run_group"], about["job_type"]) == ("first", "sweep", "train")
    assert (about["tags"], about["notes"]) == (["a"], "why")
    history = [entry["item"] for entry in _of(records, "history")]
    scores = [entry["val/auroc"] for entry in history if "val/auroc" in entry]
    assert len(scores) == 2
    assert any("train/loss_step" in entry and "lr" in entry for entry in history)
    summary: dict[str, Any] = {}
    for entry in _of(records, "summary"):
        summary.update(entry["update"])
    assert summary["best/val/auroc"] == pytest.approx(max(scores))
    assert summary["best/epoch"] == best.best_epoch
    assert (summary["status"], summary["reason"]) == ("failed", "DataError")
    assert _of(records, "exit")[0]["exit_code"] == 3


def test_nothing_private_travels_and_nothing_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inspect: Callable[[Path], list[dict[str, Any]]]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/jane.doe/train.py", "data.root=/home/jane.doe/patients"])
    run = RunDirectory.create(tmp_path / "outputs", "exp")
    logger = build_logger("wandb", tracking_dir=run.tracking_dir, config=CONFIG, name="first")
    assert logger is not None
    logger.log_metrics({"val/auroc": 0.5}, step=0)
    table: Any = logger
    table.log_table("examples", columns=["a"], data=[[1]])
    finish(logger, 0)
    text = json.dumps(inspect(run.tracking_dir))
    for private in ('"host"', "jane.doe", str(Path.home()), sys.executable):
        assert private not in text
    assert sorted(path.name for path in tmp_path.iterdir()) in (["home", "outputs"], ["outputs"])
    assert not any(path.is_file() for path in (tmp_path / "home").rglob("*"))


def test_jobs_of_one_process_get_a_run_each(tmp_path: Path, inspect: Callable[[Path], list[dict[str, Any]]]) -> None:
    for job, code in enumerate((0, 1, 0)):
        logger = build_logger("wandb", tracking_dir=tmp_path / str(job), config={"job": job}, name=f"job {job}")
        assert logger is not None
        logger.log_metrics({"val/auroc": job / 10}, step=0)
        if job != 1:  # the second job forgets to close
            finish(logger, code)
    wandb.finish()
    for job in range(3):
        records = inspect(tmp_path / str(job))
        assert _of(records, "run")[0]["config"]["update"]["job"] == job
        assert [entry["item"]["val/auroc"] for entry in _of(records, "history")] == [job / 10]


@pytest.mark.parametrize("server", ["closed", "silent"])
def test_a_server_out_of_reach_delays_but_never_stops_a_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inspect: Callable[[Path], list[dict[str, Any]]],
    server: str,
) -> None:
    monkeypatch.setattr(tracking, "_INIT_TIMEOUT", 2.0)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if server == "silent":
            listening.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        logger = build_logger("wandb", tracking_dir=tmp_path, config=CONFIG, name="first")
        assert logger is not None
        logger.log_metrics({"val/auroc": 0.5}, step=0)
        finish(logger, 0)
    assert "warning: W&B is out of reach" in capsys.readouterr().err
    assert _of(inspect(tmp_path), "history")[0]["item"]["val/auroc"] == 0.5


def test_a_key_that_is_none_is_tracked_offline(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inspect: Callable[[Path], list[dict[str, Any]]],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    logger = build_logger("wandb", tracking_dir=tmp_path, config=CONFIG, name="first")
    finish(logger, 0)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(lines) == 1
    assert len(_of(inspect(tmp_path), "exit")) == 1


def test_a_place_that_cannot_be_written_costs_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tracking").write_text("a file stands here", encoding="utf-8")
    logger = build_logger("wandb", tracking_dir=tmp_path / "tracking", config=CONFIG, name="first")
    assert logger is None
    finish(logger, 0)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_key_in_the_netrc_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_key() is False
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'a' * 40}\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert has_key() is True
    (tmp_path / "netrc").write_text("machine example.org login user password secret\n", encoding="utf-8")
    assert has_key() is False


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_other_loggers_write_into_the_run(tmp_path: Path, kind: str) -> None:
    logger = build_logger(kind, tracking_dir=tmp_path / "tracking", config=CONFIG, name="first")
    assert logger is not None
    logger.log_metrics({"val/auroc": 0.5}, step=0)
    summarise(logger, {"val/auroc": 0.5}, 0)
    finish(logger, 0)
    assert [path for path in (tmp_path / "tracking").iterdir() if path.stat().st_size > 0]


def test_none_is_none_and_anything_else_is_refused(tmp_path: Path) -> None:
    assert build_logger("none", tracking_dir=tmp_path / "tracking", config=CONFIG, name="first") is None
    assert not (tmp_path / "tracking").exists()
    with pytest.raises(ConfigurationError, match=r"logger.name=mlflow"):
        build_logger("mlflow", tracking_dir=tmp_path, config=CONFIG, name="first")


def test_a_run_that_goes_on_is_the_same_run(
    tmp_path: Path, inspect_wandb: Callable[[Path], list[dict[str, Any]]]
) -> None:
    run = RunDirectory.create(tmp_path, "exp")
    first = build_logger("wandb", tracking_dir=run.tracking_dir, config=CONFIG, name="first", group="sweep")
    remember(first, run, run.tracking_dir)
    finish(first, 143, status="interrupted")
    before = recall(run)
    assert before is not None
    assert (before.name, before.group, before.folder) == ("first", "sweep", run.tracking_dir)
    time.sleep(1.1)  # W&B names its folders by the second
    again = build_logger("wandb", tracking_dir=before.folder, config=CONFIG, name=before.name, run_id=before.id)
    finish(again, 0)
    parts = sorted((run.tracking_dir / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    for part, status in zip(parts, ("interrupted", "finished"), strict=True):
        records = inspect_wandb(part)
        assert _of(records, "run")[0]["run_id"] == before.id
        said = [entry["update"]["status"] for entry in _of(records, "summary") if "status" in entry["update"]]
        assert said[-1] == status
    assert _of(records, "run")[0]["resume"] is True


def test_a_run_that_is_killed_says_that_it_was_running(
    tmp_path: Path, inspect: Callable[[Path], list[dict[str, Any]]]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time; from pathlib import Path; from cxr.training.tracking import build_logger\n"
        "logger = build_logger('wandb', tracking_dir=Path('tracked'), config={}, name='first')\n"
        "logger.experiment.log({'a': 1}); time.sleep(2); os._exit(9)"
    )
    assert run_program(str(program), cwd=tmp_path).returncode == 9
    said = [entry["update"].get("status") for entry in _of(inspect(tmp_path / "tracked"), "summary")]
    assert said[0] == "running"


def test_console_and_code_stay_here_unless_asked_for(
    tmp_path: Path, inspect: Callable[[Path], list[dict[str, Any]]]
) -> None:
    logger = build_logger("wandb", tracking_dir=tmp_path, config=CONFIG, name="first", capture="none")
    print("a word on the console", flush=True)
    finish(logger, 0)
    assert _console_and_code(inspect(tmp_path)) == (False, [])


def test_console_and_code_travel_where_asked_for(
    tmp_path: Path, inspect: Callable[[Path], list[dict[str, Any]]]
) -> None:
    # A process of its own: pytest has put streams of its own in the place of this one's.
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path; from cxr.training.tracking import build_logger, finish\n"
        "logger = build_logger('wandb', tracking_dir=Path('tracked'), config={}, name='first', capture='all')\n"
        "print('a word on the console', flush=True); finish(logger, 0)"
    )
    done = run_program(str(program), cwd=tmp_path)
    assert done.returncode == 0, done.said
    assert _console_and_code(inspect(tmp_path / "tracked")) == (True, ["code"])


def _console_and_code(records: list[dict[str, Any]]) -> tuple[bool, list[str]]:
    said = any("a word on the console" in json.dumps(record) for record in records)
    return said, [each["type"] for each in _of(records, "artifact")]


def test_what_cannot_be_captured_is_refused_and_a_long_name_is_cut(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"logger.capture=video"):
        build_logger("wandb", tracking_dir=tmp_path, config=CONFIG, name="first", capture="video")
    logger = build_logger("wandb", tracking_dir=tmp_path, config=CONFIG, name="x" * 300)
    assert logger is not None
    assert len(logger.experiment.name) == MAX_NAME
    finish(logger, 0)
