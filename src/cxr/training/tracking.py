"""Where do the numbers of a run go while it runs?"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

import cxr
from cxr.errors import ConfigurationError
from cxr.training.csv_log import DurableCSVLogger
from cxr.training.shared_settings import shareable
from cxr.training.staged_files import note_relative_paths, start_in
from cxr.training.wandb_account import has_key

LOGGERS = ("wandb", "csv", "tensorboard", "none")
CAPTURES = ("none", "console", "code", "all")
# W&B's own limit of a run's name.
MAX_NAME = 128

# A server that does not answer may delay a run by this much at its start and at its end, seconds. What was not sent
# lies on the disk and can be sent later.
_INIT_TIMEOUT = 15.0
_FINISH_TIMEOUT = 60.0
# What a run that is killed has logged reaches the disk this often, seconds; W&B itself takes 15, and a job that dies
# sooner would leave nothing.
_FLUSH_INTERVAL = 1.0


def build_logger(
    kind: str,
    *,
    tracking_dir: str | Path,
    config: Mapping[str, Any],
    name: str,
    project: str = "cxr",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    job_type: str = "train",
    capture: str = "none",
    run_id: str | None = None,
) -> Logger | None:
    """Open the tracking of one run; close it with `finish`.

    W&B never asks and never stops a run: it is online when a key is there (``WANDB_API_KEY``, the netrc file or W&B's
    settings) and ``WANDB_MODE`` does not say otherwise, and offline else, with one line that says how to send it later
    and how to look at it now. Where it cannot be opened at all, one warning is printed and the run goes on without.
    Command line, packages, the machine's name, and the paths among the settings are never sent; source code and
    console output only where `capture` says so.

    Args:
        kind: ``wandb``, ``csv``, ``tensorboard`` or ``none``.
        tracking_dir: receives everything that the tracker writes, staged files included. Runs that share it are shown
            together by ``wandb leet <tracking_dir>/wandb``.
        config: the run's settings as a plain nested dict; see `cxr.training.shared_settings` for what is sent.
        name: of the run; cut to `MAX_NAME` characters.
        project, entity, group, tags, notes: of W&B.
        job_type: of W&B: ``train``, ``evaluate`` or ``lr_find``.
        capture: ``none``, ``console`` (what the program prints, paths included), ``code`` (the source of cxr) or
            ``all``; W&B only.
        run_id: of a W&B run that goes on, see `cxr.training.tracked_run.recall`; None: a new one.

    Returns:
        A logger for the Trainer; None for ``none``, in every process of a distributed run but the first, and where W&B
        could not be opened.

    Raises:
        ConfigurationError: an unknown kind or capture, or tensorboard that is not installed.
    """
    if capture not in CAPTURES:
        raise ConfigurationError(f"logger.capture={capture}: give one of {', '.join(CAPTURES)}")
    if kind not in LOGGERS:
        raise ConfigurationError(f"logger.name={kind}: give one of {', '.join(LOGGERS)}")
    if kind == "none" or getattr(rank_zero_only, "rank", 0) != 0:
        return None
    tracking_dir = Path(tracking_dir)
    if kind == "csv":
        # An empty name and version: metrics.csv lies in the folder itself. It would be deleted where a run goes on.
        number = len(list(tracking_dir.glob("**/metrics.csv")))
        version = f"resumed_{number}" if number else ""
        # Each row at once: what a killed run has logged is there.
        return DurableCSVLogger(tracking_dir, name="", version=version, flush_logs_every_n_steps=1)
    if kind == "tensorboard":
        try:
            return TensorBoardLogger(tracking_dir, name="", version="", default_hp_metric=False)
        except ModuleNotFoundError:
            raise ConfigurationError("logger.name=tensorboard: install it with the extra cxr[tensorboard]") from None
    return _open_wandb(
        tracking_dir,
        project=project,
        entity=entity,
        name=name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…",
        group=group,
        tags=list(tags),
        notes=notes,
        config=shareable(config),
        job_type=job_type,
        capture=capture,
        run_id=run_id,
    )


def summarise(
    logger: Logger | None,
    best: Mapping[str, float],
    best_epoch: int | None,
    *,
    cost: Mapping[str, float | None] | None = None,
) -> None:
    """Put the best epoch's metrics into W&B's summary as ``best/val/auroc`` and so on; other loggers have none.

    W&B's own summary holds the last epoch's, which is not the epoch whose weights are kept.

    Args:
        logger: from `build_logger`.
        best: ``val/<metric>`` -> value.
        best_epoch: counted from 0.
        cost: what the run took, as ``cost/<name>``; None is left out.
    """
    if isinstance(logger, WandbLogger):
        summary = {f"best/{name}": value for name, value in best.items()}
        if best_epoch is not None:
            summary["best/epoch"] = float(best_epoch)
        summary |= {f"cost/{name}": value for name, value in (cost or {}).items() if value is not None}
        logger.experiment.summary.update(summary)


def show_figure(logger: Logger | None, name: str, path: Path) -> None:
    """Send a picture that shows no patient to W&B, where that is what tracks the run."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key=name, images=[str(path)])


def finish(logger: Logger | None, exit_code: int, *, status: str | None = None, reason: str | None = None) -> None:
    """Close the tracking of a run, whatever its end was; the next run of this process gets one of its own.

    Args:
        exit_code: what the run ends with; W&B shows a run as failed unless it is 0.
        status: finished, failed, interrupted or diverged; W&B's summary holds it, and ``running`` for a run that was
            killed before it could say how it ended. None: finished or failed, by the exit code.
        reason: a few words that name no file and no patient.
    """
    if isinstance(logger, WandbLogger):
        try:
            ending = {"status": status if status is not None else "failed" if exit_code else "finished"}
            logger.experiment.summary.update({**ending, "reason": reason or ""})
            logger.experiment.finish(exit_code=exit_code)
        except Exception as error:  # a run that was trained is not lost to its tracker
            _say(f"warning: W&B could not be closed ({_one_line(error)})")
    elif logger is not None:
        logger.finalize("success" if exit_code == 0 else "failed")


def _open_wandb(tracking_dir: Path, *, capture: str, run_id: str | None, **about: Any) -> WandbLogger | None:
    about |= {} if run_id is None else {"id": run_id, "resume": "allow"}
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        mode = "online" if has_key() else "offline"
    # Read whenever a file is staged. W&B's own place is the user's home, where `wandb sync` from elsewhere misses them.
    os.environ["WANDB_DATA_DIR"] = str(tracking_dir / "staging")
    os.environ["WANDB_CACHE_DIR"] = str(tracking_dir / "cache")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # W&B's reports of its own errors may hold paths
    run = None
    if mode != "offline":
        try:
            run = _init(tracking_dir, mode, capture, about)
        except Exception as error:
            _say(f"warning: W&B is out of reach ({_one_line(error)}); this run is tracked offline")
            mode = "offline"
    if run is None:
        try:
            run = _init(tracking_dir, "offline", capture, about)
        except Exception as error:
            _say(f"warning: W&B cannot be opened ({_one_line(error)}); this run is not tracked")
            return None
    if mode == "offline":
        folder = shlex.quote(os.path.relpath(tracking_dir))
        _say(f"W&B is offline: look at it with `wandb leet {folder}/wandb`, send it with `python -m cxr.sync {folder}`")
    run.summary["status"] = "running"
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, save_dir=str(tracking_dir))


def _init(tracking_dir: Path, mode: str, capture: str, about: Mapping[str, Any]) -> Any:
    import wandb

    # W&B itself warns and takes the temporary directory of the machine, where the run would be lost.
    tracking_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=tracking_dir):  # who may do anything is told that they can, and still cannot
        pass
    if wandb.run is not None:
        # Somebody left a run open in this process; without this the new one would write into it.
        wandb.run.finish()
    settings = wandb.Settings(
        mode=mode,  # type: ignore[arg-type]
        console="wrap" if capture in ("console", "all") else "off",
        silent=True,
        save_code=False,
        host="",
        program=Path(sys.argv[0]).name,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=_INIT_TIMEOUT,
        finish_timeout=_FINISH_TIMEOUT,
        x_transaction_log_flush_interval=_FLUSH_INTERVAL,
    )
    start_in(tracking_dir)
    run = wandb.init(dir=str(tracking_dir.absolute()), settings=settings, **about)
    note_relative_paths(run, tracking_dir, offline=mode == "offline")
    if capture in ("code", "all"):
        # Not W&B's own `save_code`: it sends the script alone, under its path.
        run.log_code(root=str(Path(cxr.__file__).parent), name="source-cxr")
    return run


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
