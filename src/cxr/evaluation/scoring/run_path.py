"""Where does the checkpoint lie, or the exported network, that a path stands for?  Asked before heavy imports."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from cxr.errors import CheckpointError
from cxr.training.given_path import is_file, local_path
from cxr.training.run_directory import RunDirectory

MAX_NAMED_RUNS = 5
MAX_FOLDERS_SEARCHED = 2000

# The two files of an exported network that `evaluate.py` reads, see `cxr.evaluation.export`.
DESCRIPTION_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"


def find_checkpoint(run: str | Path, which: str | None = None) -> tuple[Path, list[str]]:
    """The checkpoint file, and what a person must know of the choice.

    Args:
        run: a run directory, its ``checkpoints`` folder, or a ``.ckpt`` file, also one that was copied elsewhere; or an
            exported folder, whose weights are found.
        which: 'best' or 'last', for a run; None: as its ``trainer.checkpoint``. Where there is no best checkpoint, the
            last is taken.

    Raises:
        CheckpointError: an address, nothing there, or an empty file; the line names what was looked for and the runs
            nearby.
    """
    given = local_path(run, "run")
    exported = exported_folder(given)
    if exported is not None:
        given = exported / WEIGHTS_FILE
        if not given.is_file():
            raise CheckpointError(
                f"{exported} holds no {WEIGHTS_FILE}: it was exported for another program; export the run again with "
                "formats=[safetensors,onnx]"
            )
    path, notes = _in_directory(given, which) if given.is_dir() or not is_file(given) else (given, [])
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: its writing was cut off{runs_nearby(given)}")
    return path, notes


def exported_folder(given: Path) -> Path | None:
    """The folder of the exported network that a path stands for; None where it stands for none.

    Args:
        given: the folder, or one of its two files.
    """
    folder = given.parent if given.name in (DESCRIPTION_FILE, WEIGHTS_FILE) else given
    holds = (folder / DESCRIPTION_FILE).is_file() and not (folder / "checkpoints").is_dir()
    return folder if holds else None


def without_own_data(run: str | Path) -> str:
    """Why an exported network cannot be scored on a split of its own data, and the way out."""
    return (
        f"run={run}: an exported network comes without the data of its training; score another collection with "
        "data=<option> (python evaluate.py --help lists them)"
    )


def run_of(path: Path) -> Path | None:
    """The run that a checkpoint lies in; None for one that was copied out of its run."""
    folder = path.resolve().parent
    run = RunDirectory(folder.parent)
    is_run = folder == run.checkpoints_dir and (run.status_path.is_file() or run.config_path.is_file())
    return run.path if is_run else None


def _in_directory(given: Path, which: str | None) -> tuple[Path, list[str]]:
    folder = given if given.name == "checkpoints" else given / "checkpoints"
    if which is None:
        which = RunDirectory(folder.parent).stands_for
    wanted = [folder / f"{which}.ckpt", *([folder / "last.ckpt"] if which == "best" else [])]
    for path in wanted:
        if is_file(path):
            return path, [] if path == wanted[0] else [f"{folder} has no best.ckpt: last.ckpt is evaluated"]
    names = " or ".join(str(path) for path in wanted)
    what = "holds no checkpoint" if given.is_dir() else "does not exist"
    raise CheckpointError(f"{given} {what}: looked for {names}{runs_nearby(given)}")


def runs_nearby(given: Path) -> str:
    """The runs in or beside the nearest folder that exists, newest first, in words."""
    folder = Path(os.path.realpath(given))  # `resolve` refuses a link to itself
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
                found.append((max(file.lstat().st_mtime for file in checkpoints), Path(here)))
            folders.clear()
        folders[:] = [name for name in sorted(folders) if not name.startswith(".")] if depth < 3 else []
    return [run for _, run in sorted(found, reverse=True)]
