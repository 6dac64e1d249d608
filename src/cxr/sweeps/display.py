"""What does a person see of a sweep while it runs?  A live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cxr.sweeps.job import SweepJob, best_auroc, read_progress

_LOOK_EVERY = 1.0  # seconds between two looks at the histories of the jobs
_ORDER = ("running", "failed", "queued", "pruned", "done")
_STYLE = {"running": "bold", "failed": "red", "queued": "dim", "pruned": "yellow", "done": "green"}


class Display:
    """Use it as a context, within which the table lives.

    Args:
        console: where to write; None: standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(highlight=False, soft_wrap=True) if console is None else console
        self._live: Live | None = None
        self._last_look = 0.0

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(escape(line))

    def changed(self, job: SweepJob) -> None:
        """A job has begun or ended."""
        self._last_look = 0.0
        if self._live is None:
            self.say(f"job {job.number}{f' ({job.label})' if job.label else ''}: {self._outcome(job)}")

    def show(self, jobs: Sequence[SweepJob]) -> None:
        """How the jobs stand now."""
        now = time.monotonic()
        if self._live is not None and now - self._last_look > _LOOK_EVERY:
            self._last_look = now
            self._live.update(self._table(jobs), refresh=True)

    def _table(self, jobs: Sequence[SweepJob]) -> Table:
        table = Table(title=self._title(jobs), title_justify="left", title_style="bold", expand=True)
        table.add_column("job", justify="right")
        table.add_column("settings", overflow="fold")
        table.add_column("state", no_wrap=True)
        table.add_column("", overflow="fold")
        shown = sorted(jobs, key=lambda job: _ORDER.index(job.state))
        # What does not fit would push the table out of the terminal; running jobs stand first.
        for job in shown[: max(3, self._console.height - 6)]:
            cells = (str(job.number), escape(job.label), job.state, escape(self._outcome(job)))
            table.add_row(*cells, style=_STYLE[job.state])
        return table

    def _title(self, jobs: Sequence[SweepJob]) -> str:
        counts = {state: sum(job.state == state for job in jobs) for state in reversed(_ORDER)}
        return ", ".join(f"{number} {state}" for state, number in counts.items() if number)

    def _outcome(self, job: SweepJob) -> str:
        if job.state == "failed":
            return f"failed: {job.reason}"
        if job.state == "pruned":
            return str(job.reason)
        if job.state == "done":
            auroc = best_auroc(job.directory)
            score = "" if auroc is None else f", best val/auroc {auroc:.4f}"
            return f"done{score}, {_clock(job.seconds)}" if job.seconds else f"done before{score}"
        if job.state == "queued":
            waits = f"waits as {job.place}" if job.place else ""
            return ", ".join(filter(None, (waits, "goes on where it stopped" if job.continues else "")))
        epochs, auroc = read_progress(job.directory)
        if self._live is None:
            on = f" on GPU {','.join(job.devices)}" if job.devices else f" as {job.place}" if job.place else ""
            begun = f"goes on after epoch {epochs}" if job.continues and epochs else "running"
            return f"{begun}{on}, console in {os.path.relpath(job.console_path)}"
        score = "" if auroc is None or math.isnan(auroc) else f"  val/auroc {auroc:.3f}"
        where = f"  GPU {','.join(job.devices)}" if job.devices else f"  {job.place}"
        return f"epoch {epochs}/{job.max_epochs}{score}  {_clock(job.seconds)}{where}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
