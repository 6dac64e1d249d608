"""What does a run leave behind, whatever ends it?  Directory, configuration, tracking and status, opened and closed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from cxr.command_line import Job
from cxr.errors import CxrError, DivergedError
from cxr.files import write_atomically
from cxr.training.accelerators import resolve_devices, resolve_precision
from cxr.training.environment import describe_environment
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
        from cxr.training.tracking import build_logger

        if not self.first:
            return
        settings, chosen = self.job.settings, self.job.settings["logger"]
        sweep = None if self.job.sweep_dir is None else self.job.sweep_dir.name
        differs = ", ".join(f"{name}={value}" for name, value in self.job.chosen.items())
        self.logger = build_logger(
            chosen["name"],
            tracking_dir=self.directory.tracking_dir,
            config=settings,
            name=f"{settings['name']}/{self.directory.path.name}" if sweep is None else f"{self.job.number}: {differs}",
            project=chosen["project"],
            entity=chosen["entity"],
            group=chosen["group"] if chosen["group"] is not None else (settings["name"] if sweep is None else sweep),
            tags=chosen["tags"],
        )


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
    run = OpenRun(job, directory, first=True)
    status, reason, exit_status = "failed", None, 1
    try:  # from here on: a signal may come while the machine is being described
        shown = os.path.relpath(directory.path)
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        write_atomically(directory.config_path, _CONFIG_HEAD.format(path=shown) + text)
        environment = describe_environment(cuda=devices["accelerator"] == "cuda")
        write_atomically(directory.environment_path, json.dumps(environment, indent=2) + "\n")
        yield run
        status, exit_status = "finished", 0
    except CxrError as error:
        status = "diverged" if isinstance(error, DivergedError) else "failed"
        reason, exit_status = " ".join(str(error).split()), error.exit_status
        raise
    except SystemExit as end:  # a signal: 128 + its number
        exit_status = end.code if isinstance(end.code, int) else 1
        status, reason = "interrupted", f"exit status {exit_status}"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        if run.logger is not None:
            from cxr.training.tracking import finish

            finish(run.logger, exit_status)
        directory.write_status(status, reason=reason, exit_status=exit_status)  # type: ignore[arg-type]
