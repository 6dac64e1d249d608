"""What does a run leave behind, whatever ends it?  Directory, configuration, tracking and status, opened and closed."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cxr.command_line import Job
from cxr.errors import CheckpointError, CxrError, DivergedError
from cxr.files import write_atomically
from cxr.resumption import OF_THE_CALL
from cxr.training.accelerators import resolve_devices, resolve_precision
from cxr.training.environment import describe_environment
from cxr.training.launched import require_fitting
from cxr.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

_CONFIG_HEAD = """\
# Repeats this run, from the folder that it was started in:
#   python train.py --config-dir {path} --config-name config
defaults:
  - schema
  - hydra_settings
  - _self_

"""


SIGNALLED = (130, 143, 140)  # what a program ends with after a signal, see `cxr.interruption`


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

    @property
    def checkpoint_path(self) -> Path | None:
        """Where training goes on; None where it begins: also where a run was stopped in its first epoch.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        path = self.directory.last_checkpoint_path
        if self.job.continues is None or not path.is_file():
            return None
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path}: damaged; delete it to begin the run again")
        return path

    def track(self) -> None:
        """Open the tracking: not before there is something to track, so that a mistake in the data leaves no trace."""
        from cxr.training.tracking import build_logger

        if not self.first or self.logger is not None:
            return
        settings, chosen = self.job.settings, self.job.settings["logger"]
        sweep = None if self.job.sweep_dir is None else self.job.sweep_dir.name
        differs = ", ".join(f"{name}={value}" for name, value in self.job.chosen.items())
        name = f"{settings['name']}/{self.directory.path.name}" if sweep is None else f"{self.job.number}: {differs}"
        group = chosen["group"] if chosen["group"] is not None else (settings["name"] if sweep is None else sweep)
        self.logger = build_logger(
            chosen["name"],
            tracking_dir=self.directory.tracking_dir,
            config={name: value for name, value in settings.items() if name not in OF_THE_CALL},
            project=chosen["project"],
            entity=chosen["entity"],
            tags=chosen["tags"],
            resumes=self.job.continues is not None,
            **self._called(name=name, group=group),
        )

    def close_tracking(self, exit_status: int, reason: str | None) -> None:
        """Close what `track` opened; a run that failed shows why."""
        if self.logger is None:
            return
        from cxr.training.tracking import finish, note_failure

        if exit_status != 0 or self.job.continues is not None:  # what was noted before it went on holds no more
            note_failure(self.logger, reason)
        finish(self.logger, exit_status)

    def _called(self, **names: str) -> dict[str, str]:
        """What the run is called in the tracking: as when it began, also where one job of a sweep goes on alone."""
        path = self.directory.tracking_dir / "names.json"
        if self.job.continues is not None and path.is_file():
            kept: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
            return kept
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(names, indent=2) + "\n")
        return names


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
    require_fitting(devices["devices"], trainer["num_nodes"], trainer["strategy"])
    joined = RunDirectory.join()
    if joined is not None:
        yield OpenRun(job, joined, first=False)
        return
    if job.continues is not None:
        directory = RunDirectory(job.continues.absolute())
    elif job.sweep_dir is not None:
        directory = RunDirectory.take(job.sweep_dir / str(job.number))
    else:
        directory = RunDirectory.create(settings["paths"]["output"], settings["name"])
    with directory.held():
        if job.continues is not None:
            RunDirectory.reopen(directory.path)
        yield from _kept_books(OpenRun(job, directory, first=True), cuda=devices["accelerator"] == "cuda")


def _kept_books(run: OpenRun, *, cuda: bool) -> Iterator[OpenRun]:
    """Write what the run is and what it is trained with, let it go on, and write what it came to."""
    job, directory = run.job, run.directory
    status, reason, exit_status = "failed", None, 1
    try:  # from here on: a signal may come while the machine is being described
        if job.continues is None:
            own = {name: value for name, value in job.settings.items() if name not in OF_THE_CALL}
            text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
            write_atomically(directory.config_path, _CONFIG_HEAD.format(path=os.path.relpath(directory.path)) + text)
        _note_environment(directory, describe_environment(cuda=cuda))
        yield run
        status, exit_status = "finished", 0
    except CxrError as error:
        status = "diverged" if isinstance(error, DivergedError) else "failed"
        reason, exit_status = " ".join(str(error).split()), error.exit_status
        raise
    except SystemExit as end:
        exit_status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        reason = f"exit status {exit_status}"
        if exit_status in SIGNALLED:
            status = "interrupted"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        tracked = run.job.settings["logger"]["name"] == "wandb"
        if status in ("failed", "diverged") and tracked and run.job.sweep_dir is not None:
            # A run of its own that fails before there is anything to track leaves no trace; among the jobs of a sweep
            # it would be missed.
            run.track()
        run.close_tracking(exit_status, reason)
        run.directory.write_status(status, reason=reason, exit_status=exit_status)  # type: ignore[arg-type]


def _note_environment(directory: RunDirectory, environment: dict[str, Any]) -> None:
    """Write with what the run is trained; with what it goes on is written below that."""
    path = directory.environment_path
    if path.is_file():
        first = json.loads(path.read_text(encoding="utf-8"))
        environment = {**first, "resumed": [*first.get("resumed", []), environment]}
    write_atomically(path, json.dumps(environment, indent=2) + "\n")
