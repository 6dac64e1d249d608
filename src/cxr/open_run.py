"""What does a run leave behind, whatever ends it?  Directory, configuration, tracking and status, opened and closed."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cxr.command_line import Job
from cxr.errors import CheckpointError, CxrError, DivergedError
from cxr.evaluation.comparison.configurations import balance_in_words
from cxr.files import remove_unfinished, write_atomically
from cxr.interruption import SIGNALS, defer, end_if_asked, resume
from cxr.resumption import DEFAULTS, OF_THE_CALL
from cxr.run_names import job_name, single_name
from cxr.training.accelerators import resolve_devices, resolve_precision
from cxr.training.environment import describe_environment
from cxr.training.launched import require_fitting
from cxr.training.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    from pytorch_lightning.loggers import Logger

_CONFIG_HEAD = """\
# Repeats this run, from the folder that it was started in:
#   python train.py --config-dir {path} --config-name config
defaults:
{defaults}

"""


@dataclass
class OpenRun:
    """A run while it goes on.

    Attributes:
        job: what was asked for.
        directory: where the run keeps its books.
        first: whether this is the process that keeps the books.
        remark: what must be known of a run that did not fail: how it was pruned, or that its loss exploded.
        pruned: whether it was a trial that ended early.
        logger: where its metrics go, once `track` was called; None for none, and in all processes but the first.
        tracking_dir: what the tracker writes; None before `track`, and where there is none.
    """

    job: Job
    directory: RunDirectory
    first: bool
    logger: Logger | None = None
    tracking_dir: Path | None = None
    remark: str | None = None
    pruned: bool = False

    @cached_property
    def checkpoint_path(self) -> Path | None:
        """Where training goes on; None where it begins: also where a run was stopped in its first epoch.

        A damaged checkpoint is put aside, with a warning, and the one before it is taken. All of them lead to the same
        end, some by a longer way.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged; or the first that is whole holds more than
                plain values and tensors: somebody else has put it there.
        """
        from cxr.training.checkpoint_io import require_whole
        from cxr.training.torch_files import read_torch_file

        if self.job.continues is None:
            return None
        run = self.directory
        damaged = []
        for path in (run.last_checkpoint_path, run.previous_checkpoint_path, run.best_checkpoint_path):
            if not path.is_file():  # also put aside, a moment ago, by the first process of the run
                continue
            try:
                require_whole(path)
            except (CheckpointError, OSError) as error:
                damaged.append((path, " ".join(str(error).split())))
                continue
            read_torch_file(path)
            if self.first:
                _put_aside(damaged, path)
            return path
        if damaged:
            raise CheckpointError(f"{damaged[0][1]}; no whole one is left: delete it to begin the run again")
        return None

    def track(self) -> None:
        """Open the tracking: not before there is something to track, so that a mistake in the data leaves no trace.

        A run that goes on goes on in the tracked run that it was, under its name, also where one job of a sweep goes on
        alone.
        """
        from cxr.training.tracked_run import recall, remember
        from cxr.training.tracking import build_logger

        if not self.first or self.logger is not None:
            return
        job, settings, chosen = self.job, self.job.settings, self.job.settings["logger"]
        folder = self.directory.path.name
        before = recall(self.directory) if job.continues is not None else None
        if before is not None:
            name, group, tracking_dir = before.name, before.group, before.folder
        elif job.sweep_dir is None:
            name, group = single_name(settings["name"], folder, job.chosen, settings), settings["name"]
            tracking_dir = self.directory.tracking_dir
        else:
            name, group = (
                job_name(job.number, job.chosen, job.sweep_dir, settings),
                f"{settings['name']}/{job.sweep_dir.name}",
            )
            # W&B's own viewer shows the runs of one folder together, so the jobs of a sweep share it.
            sharing = RunDirectory(job.sweep_dir) if chosen["name"] == "wandb" else self.directory
            tracking_dir = sharing.tracking_dir
        config = {
            **{name: value for name, value in settings.items() if name not in OF_THE_CALL},
            "class_weighting": balance_in_words(settings["balance"]["sampler"], settings["balance"]["weighting"]),
            "run": f"{group}/{folder}",
        }
        self.tracking_dir = tracking_dir
        # A signal while W&B opens its run would leave one that nobody closes, and that W&B holds for finished.
        defer()
        try:
            self.logger = build_logger(
                chosen["name"],
                tracking_dir=tracking_dir,
                config=config,
                name=name,
                project=chosen["project"],
                entity=chosen["entity"],
                group=group if before is not None or chosen["group"] is None else chosen["group"],
                tags=chosen["tags"],
                notes=chosen["notes"],
                capture=chosen["capture"],
                run_id=None if before is None else before.id,
            )
            remember(self.logger, self.directory, tracking_dir)
        finally:
            resume()
        end_if_asked()

    def send_artifacts(self, records: pd.DataFrame, best: Mapping[str, float]) -> None:
        """Log the split and the weights that ``logger.log_model`` asks for.

        Args:
            records: of the data module.
            best: metrics of the best epoch.
        """
        if self.logger is None or self.tracking_dir is None:
            return
        from cxr.training.artifacts import log_model, log_split

        log_split(self.logger, records, self.tracking_dir)
        wanted, run = self.job.settings["logger"]["log_model"], self.directory
        paths = {"latest": run.last_checkpoint_path, "best": run.best_checkpoint_path}
        if wanted == "best" and run.stands_for == "last":
            del paths["best"]
        elif wanted == "best":  # the one version that there is has both aliases
            paths["latest"] = run.best_checkpoint_path
        if wanted != "none":
            checkpoints = {alias: path for alias, path in paths.items() if path.is_file()}
            log_model(self.logger, self.tracking_dir, checkpoints, metrics=best)

    def close_tracking(self, exit_status: int, status: str, reason: str | None) -> None:
        """Close what `track` opened.

        Args:
            status: finished, pruned, failed, interrupted or diverged.
            reason: a few words that name no file and no patient.
        """
        if self.logger is None:
            return
        from cxr.training.tracking import finish

        finish(self.logger, exit_status, status=status, reason=reason)


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
            for folder in (directory.path, directory.checkpoints_dir):
                remove_unfinished(folder)
        yield from _kept_books(OpenRun(job, directory, first=True), cuda=devices["accelerator"] == "cuda")


def _kept_books(run: OpenRun, *, cuda: bool) -> Iterator[OpenRun]:
    """Write what the run is and what it is trained with, let it go on, and write what it came to."""
    job, directory = run.job, run.directory
    status, reason, exit_status = "failed", None, 1
    told = None  # of the reason, to W&B: an error may name a patient or a file
    try:  # from here on: a signal may come while the machine is being described
        if job.continues is None:
            own = {name: value for name, value in job.settings.items() if name not in OF_THE_CALL}
            text = yaml.safe_dump(own, sort_keys=False, allow_unicode=True)
            head = _CONFIG_HEAD.format(
                path=os.path.relpath(directory.path), defaults="\n".join(f"  - {name}" for name in DEFAULTS)
            )
            write_atomically(directory.config_path, head + text)
        _note_environment(directory, describe_environment(cuda=cuda))
        yield run
        status, exit_status = "pruned" if run.pruned else "finished", 0
        told = reason = run.remark
        directory.previous_checkpoint_path.unlink(missing_ok=True)
    except CxrError as error:
        status = "diverged" if isinstance(error, DivergedError) else "failed"
        reason, exit_status = " ".join(str(error).split()), error.exit_status
        told = reason if isinstance(error, DivergedError) else type(error).__name__
        if isinstance(error, DivergedError) and error.records:
            _list_records(directory, error.records)
        raise
    except SystemExit as end:
        exit_status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        told = reason = f"exit status {exit_status}"
        if exit_status - 128 in SIGNALS:
            status = "interrupted"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        told = type(error).__name__
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"{error.filename or directory.path}: cannot be written ({error.strerror})"
            raise CxrError(f"{reason}; make room, and go on with resume={os.path.relpath(directory.path)}") from error
        raise
    finally:
        tracked = run.job.settings["logger"]["name"] == "wandb"
        if status in ("failed", "diverged") and tracked and run.job.sweep_dir is not None:
            # A run of its own that fails before there is anything to track leaves no trace; among the jobs of a sweep
            # it would be missed.
            run.track()
        run.close_tracking(exit_status, status, told)
        try:
            run.directory.write_status(status, reason=reason, exit_status=exit_status)  # type: ignore[arg-type]
        except OSError as error:  # as on a full disk; what ended the run must still be said
            _warn(f"{run.directory.status_path}: cannot be written ({error.strerror}); the run is {status}: {reason}")


def _put_aside(damaged: Sequence[tuple[Path, str]], taken: Path) -> None:
    """Keep damaged checkpoints where nothing takes them for whole, and say so."""
    for path, why in damaged:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        _warn(f"{why}; it is kept as {aside.name}, and the run goes on from {taken.name}, which was written before it")


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def _list_records(directory: RunDirectory, records: Sequence[int]) -> None:
    """Write ``diverged.csv``: the rows of ``split.csv`` with which a training diverged, and their numbers there."""
    import pandas as pd

    from cxr.sources.spreadsheet import restored, to_csv

    split = restored(pd.read_csv(directory.split_path, dtype=str, keep_default_na=False))
    table = split.iloc[list(records)]
    table.insert(0, "row", list(records))
    write_atomically(directory.diverged_path, to_csv(table))


def _note_environment(directory: RunDirectory, environment: dict[str, Any]) -> None:
    """Write with what the run is trained; with what it goes on is written below that."""
    path = directory.environment_path
    if path.is_file():
        first = json.loads(path.read_text(encoding="utf-8"))
        environment = {**first, "resumed": [*first.get("resumed", []), environment]}
    write_atomically(path, json.dumps(environment, indent=2) + "\n")
