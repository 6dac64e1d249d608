"""Under which name does W&B know a run, and where do its records lie?  Evaluations and resumed trainings ask."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pytorch_lightning.loggers import Logger, WandbLogger

from cxr.errors import DataError
from cxr.files import write_atomically
from cxr.training.run_directory import RunDirectory


@dataclass(frozen=True)
class TrackedRun:
    """What ``tracking.json`` holds of a run that W&B tracks.

    Args:
        id: the run's id, unique in its project.
        name: what a person reads.
        group: the sweep, or the experiment.
        project: of W&B.
        entity: account or team; None where the run was never online.
        folder: receives everything that W&B writes, shared by the jobs of a sweep; absolute.
    """

    id: str
    name: str
    group: str | None
    project: str
    entity: str | None
    folder: Path

    @property
    def model_artifact(self) -> str:
        """The name of the artifact that holds the weights, without an alias."""
        return self.artifact_of(self.id)

    @staticmethod
    def artifact_of(run_id: str) -> str:
        """The same for any run, by its id."""
        return f"model-{run_id}"


def remember(logger: Logger | None, run: RunDirectory, folder: Path) -> None:
    """Write ``tracking.json``; nothing for a logger that is not W&B.

    Args:
        logger: from `cxr.training.tracking.build_logger`.
        run: receives the file.
        folder: the ``tracking_dir`` that the logger was given.
    """
    if not isinstance(logger, WandbLogger):
        return
    about = logger.experiment
    tracked = TrackedRun(about.id, about.name, about.group or None, about.project, about.entity or None, folder)
    # Relative, so that a sweep that is moved finds its own.
    content = {**asdict(tracked), "folder": Path(os.path.relpath(folder, run.path)).as_posix()}
    write_atomically(run.tracked_path, json.dumps(content, indent=2) + "\n")


def recall(run: RunDirectory) -> TrackedRun | None:
    """What `remember` wrote; None for a run that W&B does not track.

    Raises:
        DataError: the file is damaged.
    """
    try:
        content = json.loads(run.tracked_path.read_text(encoding="utf-8"))
        folder = (run.path / content.pop("folder")).resolve()
        return TrackedRun(**content, folder=folder)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(
            f"{run.tracked_path}: cannot be read ({type(error).__name__}); remove it, and the run counts as untracked"
        ) from None
