"""Where do the numbers of a run go while it runs?"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from cxr.errors import ConfigurationError

LOGGERS = ("wandb", "csv", "tensorboard", "none")

# A server that does not answer may delay a run by this much at its start and at its end, seconds. What was not sent
# lies on the disk and can be sent later.
_INIT_TIMEOUT = 15.0
_FINISH_TIMEOUT = 60.0


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
    job_type: str = "train",
    resumes: bool = False,
) -> Logger | None:
    """Open the tracking of one run; close it with `finish`.

    W&B never asks and never stops a run: it is online when a key is there (``WANDB_API_KEY``, the netrc file or W&B's
    settings) and ``WANDB_MODE`` does not say otherwise, and offline else, with one line that says how to send it later
    and how to look at it now. Where it cannot be opened at all, one warning is printed and the run goes on without.
    Command line, source code, console output, packages and the machine's name are not sent.

    Args:
        kind: ``wandb``, ``csv``, ``tensorboard`` or ``none``.
        tracking_dir: receives everything that the tracker writes, staged files included.
        config: the run's settings as a plain nested dict.
        name: of the run.
        project, entity, group, tags: of W&B.
        job_type: of W&B: ``train`` or ``evaluate``.
        resumes: the run goes on, in the tracked run that this folder holds, where it holds one.

    Returns:
        A logger for the Trainer; None for ``none``, in every process of a distributed run but the first, and where W&B
        could not be opened.

    Raises:
        ConfigurationError: an unknown kind, or tensorboard that is not installed.
    """
    if kind not in LOGGERS:
        raise ConfigurationError(f"logger.name={kind}: give one of {', '.join(LOGGERS)}")
    if kind == "none" or getattr(rank_zero_only, "rank", 0) != 0:
        return None
    tracking_dir = Path(tracking_dir)
    if kind == "csv":
        # An empty name and version: metrics.csv lies in the folder itself. It would be deleted where a run goes on.
        number = len(list(tracking_dir.glob("**/metrics.csv"))) if resumes else 0
        return CSVLogger(tracking_dir, name="", version=f"resumed_{number}" if number else "")
    if kind == "tensorboard":
        try:
            return TensorBoardLogger(tracking_dir, name="", version="", default_hp_metric=False)
        except ModuleNotFoundError:
            raise ConfigurationError("logger.name=tensorboard: install it with the extra cxr[tensorboard]") from None
    return _open_wandb(
        tracking_dir,
        project=project,
        entity=entity,
        name=name,
        group=group,
        tags=list(tags),
        config=dict(config),
        job_type=job_type,
        **_same_run(tracking_dir, resumes),
    )


def _same_run(tracking_dir: Path, resumes: bool) -> dict[str, str]:
    run_id = tracked_run_id(tracking_dir) if resumes else None
    return {} if run_id is None else {"id": run_id, "resume": "allow"}


def summarise(logger: Logger | None, best: Mapping[str, float], best_epoch: int | None) -> None:
    """Put the best epoch's metrics into W&B's summary as ``best/val/auroc`` and so on; other loggers have none.

    W&B's own summary holds the last epoch's, which is not the epoch whose weights are kept.
    """
    if isinstance(logger, WandbLogger):
        summary = {f"best/{name}": value for name, value in best.items()}
        if best_epoch is not None:
            summary["best/epoch"] = float(best_epoch)
        logger.experiment.summary.update(summary)


def tracked_run_id(tracking_dir: str | Path) -> str | None:
    """The W&B id of the newest run in this folder, online or offline; None where there is none."""
    runs = [path for path in (Path(tracking_dir) / "wandb").glob("*run-*-*") if path.is_dir()]
    return max(runs, key=lambda path: path.name.split("run-")[1]).name.rsplit("-", 1)[1] if runs else None


def note_failure(logger: Logger | None, reason: str | None) -> None:
    """Put the reason of a failure, or None, into W&B's summary as ``failure``; other loggers have none."""
    if isinstance(logger, WandbLogger):
        try:
            logger.experiment.summary.update({"failure": reason})
        except Exception as error:  # a cluster that ends a job ends W&B's own process, too
            _say(f"warning: W&B was not told of the end ({_one_line(error)})")


def finish(logger: Logger | None, exit_code: int) -> None:
    """Close the tracking of a run, whatever its end was; the next run of this process gets one of its own.

    Args:
        exit_code: what the run ends with; W&B shows a run as failed unless it is 0.
    """
    if isinstance(logger, WandbLogger):
        try:
            logger.experiment.finish(exit_code=exit_code)
        except Exception as error:  # a run that was trained is not lost to its tracker
            _say(f"warning: W&B could not be closed ({_one_line(error)})")
    elif logger is not None:
        logger.finalize("success" if exit_code == 0 else "failed")


def _open_wandb(tracking_dir: Path, **about: Any) -> WandbLogger | None:
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        mode = "online" if _has_key() else "offline"
    # Read whenever a file is staged. W&B's own place is the user's home, where `wandb sync` from elsewhere misses them.
    os.environ["WANDB_DATA_DIR"] = str(tracking_dir / "staging")
    os.environ["WANDB_CACHE_DIR"] = str(tracking_dir / "cache")
    run = None
    if mode != "offline":
        try:
            run = _init(tracking_dir, mode, about)
        except Exception as error:
            _say(f"warning: W&B is out of reach ({_one_line(error)}); this run is tracked offline")
            mode = "offline"
    if run is None:
        try:
            run = _init(tracking_dir, "offline", about)
        except Exception as error:
            _say(f"warning: W&B cannot be opened ({_one_line(error)}); this run is not tracked")
            return None
    if mode == "offline":
        folder = shlex.quote(str(Path(run.settings.sync_dir)))
        _say(f"W&B is offline: send the run with `wandb sync {folder}`, look at it with `wandb leet {folder}`")
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, save_dir=str(tracking_dir))


def _init(tracking_dir: Path, mode: str, about: Mapping[str, Any]) -> Any:
    import wandb

    # W&B itself warns and takes the temporary directory of the machine, where the run would be lost.
    tracking_dir.mkdir(parents=True, exist_ok=True)
    if not os.access(tracking_dir, os.W_OK):
        raise PermissionError(f"{tracking_dir} cannot be written")
    if wandb.run is not None:
        # Somebody left a run open in this process; without this the new one would write into it.
        wandb.run.finish()
    settings = wandb.Settings(
        mode=mode,  # type: ignore[arg-type]
        console="off",
        silent=True,
        save_code=False,
        host="",
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=_INIT_TIMEOUT,
        finish_timeout=_FINISH_TIMEOUT,
    )
    return wandb.init(dir=str(tracking_dir), settings=settings, **about)


def _has_key() -> bool:
    """Whether W&B could log in without asking; looks, but neither logs in nor calls the server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    settings = wandb.setup().settings
    try:
        # W&B's own reader: it knows under which names its servers have been saved.
        return settings.api_key is not None or read_netrc_auth(host=settings.base_url) is not None
    except wandb.errors.AuthenticationError:  # a key that is none
        return False


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
