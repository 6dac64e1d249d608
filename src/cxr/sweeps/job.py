"""What is a job of a sweep, how far is it, and what became of it?"""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cxr.training.run_directory import RunDirectory

State = Literal["queued", "running", "done", "pruned", "failed"]

_SAID = ("failed", "interrupted", "diverged")  # with these a run says itself how it ended, and why


@dataclass
class SweepJob:
    """One job of a sweep, as the process that starts it sees it.

    Attributes:
        number: its place in the sweep, and the name of its directory.
        directory: of its run.
        label: what sets it apart from the other jobs, ``key=value``.
        arguments: the program that it is, and the arguments of that.
        end_command: tells the tracking how it ended, where it was killed; the exit status follows.
        max_epochs: how many it has.
        gpus: how many it takes; 0 for none.
        processes: how many it consists of, where it takes no GPU.
        continues: whether its directory holds a run that stopped.
        environment: what its process finds in its environment besides.
        attached: whether it runs or waits already, given to Slurm by an earlier call.
        place: where it runs, if not here.
        state, reason: how it stands; why it failed, or was pruned.
        seconds: how long it ran here.
    """

    number: int
    directory: RunDirectory
    label: str
    arguments: list[str]
    end_command: list[str]
    max_epochs: int = 1
    gpus: int = 0
    processes: int = 1
    continues: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    attached: bool = False
    place: str = ""
    state: State = "queued"
    reason: str | None = None
    seconds: float = 0.0
    devices: tuple[str, ...] = field(default=())

    @property
    def console_path(self) -> Path:
        """What the job prints."""
        return self.directory.path / "console.log"


def note_end(job: SweepJob, return_code: int) -> None:
    """Put down what became of a job whose process has ended, also in its ``status.json``.

    A process that was killed, or could not begin, has said nothing of its end there.

    Args:
        return_code: of the process; minus the signal that ended it.
    """
    told = job.directory.read_status()
    if return_code == 0 and told.get("status") == "finished":
        job.state, job.reason = "done", None
        return
    if return_code == 0 and told.get("status") == "pruned":
        job.state, job.reason = "pruned", str(told["reason"])
        return
    job.state = "failed"
    if told.get("status") in _SAID and return_code > 0:
        job.reason = _said(told)
        return
    job.reason = describe_end(return_code, job.console_path)
    job.directory.write_status("failed", reason=job.reason, exit_status=abs(return_code))


def note_lost(job: SweepJob, reason: str) -> bool:
    """Put down what became of a job that has ended elsewhere, so that nobody here saw how.

    Args:
        reason: what is known of it besides.

    Returns:
        Whether the job had not said it itself.
    """
    told = job.directory.read_status()
    if told.get("status") in ("finished", "pruned"):
        job.state, job.reason = ("done", None) if told["status"] == "finished" else ("pruned", str(told["reason"]))
        return False
    job.state = "failed"
    if told.get("status") in _SAID:
        job.reason = _said(told) + (f" ({reason})" if told["status"] == "interrupted" else "")
        return False
    job.reason = reason
    job.directory.path.mkdir(parents=True, exist_ok=True)
    job.directory.write_status("failed", reason=reason, exit_status=1)
    return True


def _said(told: dict[str, Any]) -> str:
    return str(told["reason"]) if told["status"] == "failed" else f"{told['status']}: {told['reason']}"


def note_refusal(job: SweepJob, reason: str) -> None:
    """Put down that a job could not be started at all."""
    job.state, job.reason = "failed", reason
    job.directory.path.mkdir(parents=True, exist_ok=True)
    job.directory.write_status("failed", reason=reason, exit_status=1)


def describe_end(return_code: int, console_path: Path) -> str:
    """One line for the end of a process that did not say why."""
    if return_code < 0:
        try:
            name = signal.Signals(-return_code).name
        except ValueError:
            name = f"signal {-return_code}"
        return f"killed by {name}" + (" (perhaps out of memory)" if name == "SIGKILL" else "")
    last = _last_line(console_path)
    error = last.removeprefix("error: ")
    return error if error != last else f"exit status {return_code}" + (f" ({last})" if last else "")


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def read_progress(directory: RunDirectory) -> tuple[int, float | None]:
    """How many epochs a run has behind it, and the validation AUROC of the last of them; 0 and None before the first.

    ``history.csv`` is replaced whole, so that a reader never meets half of it.
    """
    try:
        with directory.history_path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return 0, None
    if not rows:
        return 0, None
    try:
        return int(float(rows[-1]["epoch"])) + 1, float(rows[-1].get("val/auroc") or "nan")
    except (KeyError, ValueError):
        return 0, None


def best_auroc(directory: RunDirectory) -> float | None:
    """The validation AUROC of the kept weights of a finished run; None where there is none."""
    metrics: dict[str, Any] = json.loads(directory.metrics_path.read_text(encoding="utf-8"))
    value = metrics["val"]["auroc"]["value"]
    return None if value is None else float(value)
