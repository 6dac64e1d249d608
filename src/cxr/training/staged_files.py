"""Under which paths does W&B note the files that it is to send?  Relative ones: it sends the paths, too."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any


def note_relative_paths(run: Any, folder: Path, *, offline: bool) -> None:
    """Have a W&B run note the files of its artifacts, tables and charts included, by relative paths from now on.

    W&B stages a file, notes where it lies and reads it from there when it is sent; its server then keeps the path in
    the artifact's manifest, with the name of whoever's home it is. A relative path says nothing, and a folder that is
    moved finds its own.

    Args:
        run: what ``wandb.init`` returned.
        folder: the ``tracking_dir``. Offline, paths start there: `cxr.sync` sends from there.
        offline: else they start where the process that sends was started.
    """
    start = folder if offline else _started_in()
    log_artifact = run._log_artifact

    def log_relative(artifact: Any, *given: Any, **named: Any) -> Any:
        # A path instead of an artifact has no manifest yet; cxr logs none.
        for entry in artifact.manifest.entries.values():
            if entry.local_path is not None:
                entry.local_path = os.path.relpath(entry.local_path, start)
        return log_artifact(artifact, *given, **named)

    # All ways to log an artifact come through here, also those by which W&B itself logs a table or a chart.
    run._log_artifact = log_relative


@cache
def _started_in() -> Path:
    """The working directory of W&B's own process: of this one when its first run was opened."""
    return Path.cwd()
