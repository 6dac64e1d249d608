"""Which runs lie in these folders, how did each end, and what did it leave?  Asked without opening a checkpoint."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cxr.errors import ConfigurationError, CxrError
from cxr.evaluation.metrics_file import read_metrics
from cxr.sources.spreadsheet import restore
from cxr.training.run_directory import RunDirectory

# A run that ended so has no weights that its configuration speaks for.
NOT_COMPARED = ("failed", "diverged", "running", "pruned")
# Stands among the settings, although nobody sets it: which radiographs a run was given, by their content.
RECORDS = "records"


@dataclass(frozen=True)
class FinishedRun:
    """What a run directory says of itself.

    Args:
        name: its path below the folder that all runs share.
        path: the run directory.
        status: as in ``status.json``; 'evaluation' for a folder that holds results only.
        reason: why it cannot be compared, in one line; None where it can.
        settings: ``config.yaml`` as dotted key -> value, lists as JSON text, and `RECORDS`; empty where there is none.
        metrics: ``metrics.json``; empty where there is none.
        splits: the splits and collections that it holds predictions of, sorted.
        epochs: epochs trained; None where ``history.csv`` does not say.
        seconds: wall time of the training; None likewise.
        train_images: images of the training split; None where ``split.csv`` does not say.
    """

    name: str
    path: Path
    status: str
    reason: str | None
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]
    splits: tuple[str, ...]
    epochs: int | None
    seconds: float | None
    train_images: int | None

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.path)


def find_runs(paths: Sequence[str | Path]) -> list[FinishedRun]:
    """Every run in these folders, in the order of the paths and, within one, of the numbers in the names.

    Args:
        paths: run directories, sweep folders, or folders that hold such at any depth.

    Raises:
        ConfigurationError: a path that is not there, is a file, or holds no run; one line with the nearest name.
    """
    found: dict[Path, None] = {}
    for given in paths:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(_absent(folder))
        below = sorted(_runs_below(folder.resolve()), key=natural_order)
        if not below:
            raise ConfigurationError(f"{given}: holds no run (a folder with a status.json); give a run or a sweep")
        found.update(dict.fromkeys(below))
    runs = list(found)
    shared = Path(os.path.commonpath(runs)) if len(runs) > 1 else runs[0].parent
    return [_read_run(path, path.relative_to(shared).as_posix()) for path in runs]


def natural_order(path: str | Path) -> list[tuple[bool, int, str]]:
    """A sorting key in which job 10 follows job 9."""
    parts = re.split(r"(\d+)", str(path))
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, or holds the results of an evaluation of one."""
    run = RunDirectory(folder)
    return run.status_path.is_file() or (run.metrics_path.is_file() and run.predictions_dir.is_dir())


def _runs_below(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        path = Path(here)
        if is_run(path):
            folders.clear()
            yield path
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        if "multirun.yaml" in files:  # a job that was refused before it began left an empty folder
            jobs = [path / name for name in folders if name.isdigit()]
            yield from (job for job in jobs if not is_run(job))
            folders[:] = [name for name in folders if not name.isdigit() or is_run(path / name)]


def _absent(path: Path) -> str:
    if path.is_file():
        return f"{path}: is a file; give the run directory that it lies in"
    if "=" in path.name and path.parent == Path():
        key, _, value = str(path).partition("=")
        return f"{path}: there is no such folder; did you mean --{key} {value}?"
    parent = path.resolve()
    while not parent.is_dir():
        missing, parent = parent.name, parent.parent
    names = [entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    close = difflib.get_close_matches(missing, names, n=1) or [name for name in names if name.startswith(missing)]
    near = f"did you mean {os.path.relpath(parent / close[0])}?" if close else f"nothing like it in {parent}"
    return f"{path}: there is no such folder; {near}"


def _read_run(path: Path, name: str) -> FinishedRun:
    run = RunDirectory(path)
    status, reason = _ending(run)
    settings: Mapping[str, Any] = {}
    metrics: Mapping[str, Any] = {}
    try:
        if run.config_path.is_file():
            settings = dict(flatten(yaml.safe_load(run.config_path.read_text(encoding="utf-8"))))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError, OSError) as error:
        reason = reason or f"config.yaml cannot be read ({type(error).__name__})"
    try:
        metrics = read_metrics(run.metrics_path)
    except (CxrError, OSError) as error:
        reason = reason or " ".join(str(error).split())
    epochs, seconds = duration(run.history_path)
    train_images, records = _records(run.split_path)
    if settings and records is not None:
        settings = {**settings, RECORDS: records}
    files = run.predictions_dir.glob("*.csv") if run.predictions_dir.is_dir() else ()
    return FinishedRun(
        name=name,
        path=path,
        status=status,
        reason=reason,
        settings=settings,
        metrics=metrics,
        splits=tuple(sorted(file.stem for file in files if not file.name.startswith("."))),
        epochs=epochs,
        seconds=seconds,
        train_images=train_images,
    )


def _ending(run: RunDirectory) -> tuple[str, str | None]:
    if not run.status_path.is_file():
        if run.metrics_path.is_file():
            return "evaluation", None
        return "failed", "refused before it began: it has no status.json"
    try:
        content = run.find_status()
        status, said = str(content.get("status", "unknown")), content.get("reason")
    except (ValueError, AttributeError, OSError):
        return "unknown", "status.json cannot be read"
    if status not in NOT_COMPARED:
        return status, None
    if said is None:
        return status, "still running, or was killed" if status == "running" else "no reason is recorded"
    return status, " ".join(str(said).split())


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted key and value; a list or an empty section becomes JSON text."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if key == "defaults":  # how Hydra repeats the run, no setting of it
            continue
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{key}.")
        elif isinstance(value, (list, Mapping)):
            yield key, json.dumps(value, ensure_ascii=False, default=str)
        else:
            yield key, value


def _rows(path: Path) -> Iterable[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {name: restore(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error):
        return


def duration(history: Path) -> tuple[int | None, float | None]:
    """Epochs and seconds of a training, from its ``history.csv``; None where that does not say.

    A run that was resumed counts its seconds anew, so each part adds its last row.
    """
    epochs, finished, last = 0, 0.0, 0.0
    try:
        for row in _rows(history):
            now = float(row["seconds"])
            if now < last:
                finished += last
            last = now
            epochs = max(epochs, int(float(row["epoch"])) + 1)
    except (KeyError, TypeError, ValueError):
        return None, None
    return (epochs, round(finished + last, 1)) if epochs else (None, None)


def _records(split: Path) -> tuple[int | None, str | None]:
    """How many images train, and which images with which labels there are at all, in a word; None where unknown.

    The word is made of the content of the files: the same radiographs in another folder give the same word, other
    radiographs in a folder of the same name another.
    """
    rows = list(_rows(split))
    if not rows or not all(row.get("sha256") for row in rows):
        return None, None
    content = "\n".join(sorted(f"{row['sha256']} {row.get('label')}" for row in rows))
    word = hashlib.sha256(content.encode()).hexdigest()[:8]
    return sum(row.get("split") == "train" for row in rows), f"{len(rows)} images ({word})"
