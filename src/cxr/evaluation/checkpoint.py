"""Which network, and which data, does a path stand for?  A run directory or a checkpoint file, opened safely."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cxr.errors import CheckpointError, CxrError
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory

# Lightning keeps the state of a data module under the name of its class.
DATA_STATE = CXRDataModule.__qualname__
# What every checkpoint of this program holds; other Lightning programs lack the last.
REQUIRED_KEYS = ("state_dict", "epoch", CXRModule.CHECKPOINT_HYPER_PARAMS_KEY, DATA_STATE)
MAX_NAMED_RUNS = 5
MAX_FOLDERS_SEARCHED = 2000


@dataclass(frozen=True)
class OpenedRun:
    """A checkpoint and what belongs to it.

    Args:
        path: the checkpoint file.
        run_dir: the run that it lies in; None for a checkpoint that was copied out of its run.
        epoch: the epoch after which it was saved, counted from 0.
        module: the network, on the CPU, in evaluation mode.
        training_split: columns source, image, sha256, split (and label, where the checkpoint keeps it) of every
            record that stood in a split of the training.
        notes: what a person must know of the choice of the checkpoint, a sentence each.
    """

    path: Path
    run_dir: Path | None
    epoch: int
    module: CXRModule
    training_split: pd.DataFrame
    notes: list[str]

    def datamodule(self, **overrides: Any) -> CXRDataModule:
        """The data that the network was trained on, with the split of the training.

        Args:
            overrides: any of cache_dir, data_dir, num_workers, batch_size, progress; None leaves the trained value.

        Raises:
            CheckpointError: where the checkpoint holds no data settings that can be read.
            DataError: from ``setup``, where the files are not those of the training.
        """
        allowed = {"cache_dir", "data_dir", "num_workers", "batch_size", "progress"}
        if not overrides.keys() <= allowed:
            raise TypeError(f"fixed by the checkpoint: {', '.join(sorted(overrides.keys() - allowed))}")
        given = {name: value for name, value in overrides.items() if value is not None}
        with _one_line(self.path):
            return CXRDataModule.load_from_checkpoint(self.path, map_location="cpu", weights_only=True, **given)


def open_run(run: str | Path, which: str = "best") -> OpenedRun:
    """Open a run directory or a checkpoint file.

    Args:
        run: a run directory, its ``checkpoints`` folder, or a ``.ckpt`` file, also one that was copied elsewhere.
        which: 'best' or 'last', for a directory; where there is no best checkpoint, the last is taken and the note
            says so.

    Raises:
        CheckpointError: nothing there, an empty or damaged file, or a checkpoint of another program; one line that
            names what was looked for and the runs nearby.
    """
    given = Path(run).expanduser()
    path, notes = (given, []) if given.is_file() else _in_directory(given, which)
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: its writing was cut off{_nearby(given)}")
    with _one_line(path):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    missing = [key for key in REQUIRED_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(f"{path} is no checkpoint of cxr: it holds no {', '.join(missing)}{_nearby(given)}")
    with _one_line(path):
        module = CXRModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        training_split = pd.DataFrame(content[DATA_STATE]["split"], dtype=object)
    return OpenedRun(path, _run_of(path), int(content["epoch"]), module.eval(), training_split, notes)


def _in_directory(given: Path, which: str) -> tuple[Path, list[str]]:
    folder = given if given.name == "checkpoints" else given / "checkpoints"
    wanted = [folder / f"{which}.ckpt", *([folder / "last.ckpt"] if which == "best" else [])]
    for path in wanted:
        if path.is_file():
            return path, [] if path == wanted[0] else [f"{folder} has no best.ckpt: last.ckpt is evaluated"]
    names = " or ".join(str(path) for path in wanted)
    what = "holds no checkpoint" if given.is_dir() else "does not exist"
    raise CheckpointError(f"{given} {what}: looked for {names}{_nearby(given)}")


def _run_of(path: Path) -> Path | None:
    folder = path.resolve().parent
    run = RunDirectory(folder.parent)
    is_run = folder == run.checkpoints_dir and (run.status_path.is_file() or run.config_path.is_file())
    return run.path if is_run else None


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Whatever a broken or foreign file makes the reader raise, in one line."""
    try:
        yield
    except CxrError:
        raise
    except Exception as error:  # the zip reader, the unpickler and the constructors have no common exception
        detail = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of cxr ({type(error).__name__}: {detail})"
        ) from error


def _nearby(given: Path) -> str:
    """The runs in or beside the nearest folder that exists, newest first, in words."""
    folder = given.resolve()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    runs = _runs_below(folder) or _runs_below(folder.parent)
    if not runs:
        return f"; there is no run in {folder}"
    shown = [os.path.relpath(run) for run in runs[:MAX_NAMED_RUNS]]
    more = f" and {len(runs) - MAX_NAMED_RUNS} more" if len(runs) > MAX_NAMED_RUNS else ""
    return f"; runs nearby: {', '.join(shown)}{more}"


def _runs_below(folder: Path) -> list[Path]:
    found: list[tuple[float, Path]] = []
    for here, folders, _ in islice(os.walk(folder), MAX_FOLDERS_SEARCHED):
        depth = len(Path(here).relative_to(folder).parts)
        if "checkpoints" in folders:
            checkpoints = list((Path(here) / "checkpoints").glob("*.ckpt"))
            if checkpoints:
                found.append((max(file.stat().st_mtime for file in checkpoints), Path(here)))
            folders.clear()
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")] if depth < 3 else []
    return [run for _, run in sorted(found, reverse=True)]
