"""How does the tracking learn of a run that could not say itself how it ended?  python -m cxr.record_end <run> <status>

A process that is killed leaves its W&B run open. The sweep that it belonged to starts this program, which goes on in
the same tracked run for as long as it takes to close it as failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cxr.command_line import Job
from cxr.open_run import OpenRun
from cxr.resumption import kept_settings
from cxr.training.run_directory import RunDirectory


def record_end(path: Path, exit_status: int) -> None:
    """Close the tracked run of a run directory, if it is tracked, with an exit status that is not 0."""
    run = RunDirectory(path)
    settings = kept_settings(run)
    if settings is None or settings["logger"]["name"] != "wandb":
        return
    job = Job(settings, [], run.path.parent, int(run.path.name), continues=run.path)
    opened = OpenRun(job, run, first=True)
    opened.track()
    opened.close_tracking(exit_status, "failed", run.read_status().get("reason"))


if __name__ == "__main__":
    record_end(Path(sys.argv[1]), int(sys.argv[2]))
