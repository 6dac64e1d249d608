"""Under which paths does W&B note the files that it is to send?  Relative ones: it sends the paths, too."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

# W&B's own process -> the folder that it works in.
_places: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()


def start_in(folder: Path) -> None:
    """Start W&B's own process, if there is none, and let it work in a folder: paths are relative to that when it sends.

    Started elsewhere, as where the user stands, it would reach the folder by a path that names everything between.
    """
    import wandb

    with contextlib.chdir(folder):
        _places.setdefault(wandb.setup(), folder.absolute())


def note_relative_paths(run: Any, folder: Path, *, offline: bool) -> None:
    """Have a W&B run note the files of its artifacts, tables and charts included, by relative paths from now on.

    W&B stages a file, notes where it lies and reads it from there when it is sent; its server then keeps the path in
    the artifact's manifest, with the name of whoever's home it is. A relative path says nothing, and a folder that is
    moved finds its own.

    Args:
        run: what ``wandb.init`` returned.
        folder: the ``tracking_dir``. Offline, paths start there: `cxr.sync` sends from there.
        offline: else they start where the process that sends works, see `start_in`.
    """
    import wandb

    start = folder if offline else _places[wandb.setup()]
    log_artifact = run._log_artifact

    def log_relative(artifact: Any, *given: Any, **named: Any) -> Any:
        # A path instead of an artifact has no manifest yet; cxr logs none.
        for entry in artifact.manifest.entries.values():
            if entry.local_path is not None:
                entry.local_path = os.path.relpath(entry.local_path, start)
        return log_artifact(artifact, *given, **named)

    # All ways to log an artifact come through here, also those by which W&B itself logs a table or a chart.
    run._log_artifact = log_relative
