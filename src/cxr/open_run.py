"""What does a run leave behind, whatever ends it?  Directory, configuration, tracking and status, opened and closed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cxr.command_line import Job
from cxr.errors import CxrError, DivergedError
from cxr.evaluation.comparison.configurations import balance_in_words
from cxr.files import write_atomically
from cxr.run_names import job_name, single_name
from cxr.training.accelerators import resolve_devices, resolve_precision
from cxr.training.environment import describe_environment
from cxr.training.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    from pytorch_lightning.loggers import Logger

_CONFIG_HEAD = """\
# Repeats this run, from the folder that it was started in:
#   python train.py --config-dir {path} --config-name config
defaults:
  - schema
  - hydra_settings
  - _self_

"""


@dataclass
class OpenRun:
    """A run while it goes on.

    Attributes:
        job: what was asked for.
        directory: where the run keeps its books.
        first: whether this is the process that keeps the books.
        logger: where its metrics go, once `track` was called; None for none, and in all processes but the first.
    """

    job: Job
    directory: RunDirectory
    first: bool
    logger: Logger | None = None

    def track(self) -> None:
        """Open the tracking: not before there is something to track, so that a mistake in the data leaves no trace."""
        from cxr.training.tracked_run import recall, remember
        from cxr.training.tracking import build_logger

        if not self.first:
            return
        job, settings, chosen = self.job, self.job.settings, self.job.settings["logger"]
        folder = self.directory.path.name
        if job.sweep_dir is None:
            name, group = single_name(settings["name"], folder, job.chosen, settings), settings["name"]
        else:
            name = job_name(job.number, job.chosen, job.sweep_dir, settings)
            group = f"{settings['name']}/{job.sweep_dir.name}"
        before = recall(self.directory)  # of a run that goes on
        config = {
            **settings,
            "class_weighting": balance_in_words(settings["balance"]["sampler"], settings["balance"]["weighting"]),
            "run": f"{group}/{folder}",
        }
        self.logger = build_logger(
            chosen["name"],
            tracking_dir=self.tracking_dir,
            config=config,
            name=name,
            project=chosen["project"],
            entity=chosen["entity"],
            group=chosen["group"] if chosen["group"] is not None else group,
            tags=chosen["tags"],
            notes=chosen["notes"],
            capture=chosen["capture"],
            run_id=None if before is None else before.id,
        )
        remember(self.logger, self.directory, self.tracking_dir)

    @property
    def tracking_dir(self) -> Path:
        """Where the tracker writes: W&B's own viewer shows the runs of one folder, so the jobs of a sweep share it."""
        if self.job.sweep_dir is None or self.job.settings["logger"]["name"] != "wandb":
            return self.directory.tracking_dir
        return RunDirectory(self.job.sweep_dir).tracking_dir

    def send_artifacts(self, records: pd.DataFrame, best: Mapping[str, float]) -> None:
        """Log the split and the weights that ``logger.log_model`` asks for.

        Args:
            records: of the data module.
            best: metrics of the best epoch.
        """
        from cxr.training.artifacts import log_model, log_split

        log_split(self.logger, records, self.tracking_dir)
        wanted, run = self.job.settings["logger"]["log_model"], self.directory
        paths = {"latest": run.last_checkpoint_path, "best": run.best_checkpoint_path}
        if wanted == "best":  # the one version that there is has both aliases
            paths["latest"] = run.best_checkpoint_path
        if wanted != "none":
            checkpoints = {alias: path for alias, path in paths.items() if path.is_file()}
            log_model(self.logger, self.tracking_dir, checkpoints, metrics=best)


@contextmanager
def open_run(job: Job) -> Iterator[OpenRun]:
    """Make the run directory; in the end write what the run came to, and close its tracking with it.

    Raises:
        ConfigurationError: the devices or the precision that were asked for are not to be had, before anything is
            written.
    """
    settings, trainer = job.settings, job.settings["trainer"]
    devices = resolve_devices(trainer["gpus"], strategy=trainer["strategy"], num_processes=trainer["num_processes"])
    resolve_precision(trainer["precision"], devices["accelerator"])
    joined = RunDirectory.join()
    if joined is not None:
        yield OpenRun(job, joined, first=False)
        return
    if job.sweep_dir is not None:
        directory = RunDirectory.take(job.sweep_dir / str(job.number))
    else:
        directory = RunDirectory.create(settings["paths"]["output"], settings["name"])
    shown = os.path.relpath(directory.path)
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    write_atomically(directory.config_path, _CONFIG_HEAD.format(path=shown) + text)
    environment = describe_environment(cuda=devices["accelerator"] == "cuda")
    write_atomically(directory.environment_path, json.dumps(environment, indent=2) + "\n")
    run = OpenRun(job, directory, first=True)
    status, reason, exit_status = "failed", None, 1
    told = None  # of the reason, to W&B: an error may name a patient or a file
    try:
        yield run
        status, exit_status = "finished", 0
    except CxrError as error:
        status = "diverged" if isinstance(error, DivergedError) else "failed"
        reason, exit_status = " ".join(str(error).split()), error.exit_status
        told = reason if isinstance(error, DivergedError) else type(error).__name__
        raise
    except SystemExit as end:  # a signal: 128 + its number
        exit_status = end.code if isinstance(end.code, int) else 1
        status, reason = "interrupted", f"exit status {exit_status}"
        told = reason
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        told = type(error).__name__
        raise
    finally:
        if run.logger is not None:
            from cxr.training.tracking import finish

            finish(run.logger, exit_status, status=status, reason=told)
        directory.write_status(status, reason=reason, exit_status=exit_status)  # type: ignore[arg-type]
