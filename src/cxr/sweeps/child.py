"""What does the process of a job know of its sweep, and how does it notice that the sweep is no more?

Only POSIX: the program that starts the jobs holds the writing end of a pipe and never writes. When it is gone, whatever
ended it, the system closes the pipe; the job sees that and ends itself as after SIGTERM, between two batches.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = "CXR_SWEEP_JOB"


@dataclass(frozen=True)
class Membership:
    """The place of this process in a sweep.

    Attributes:
        sweep_dir, number: the directory of the job is ``sweep_dir / number``.
        continues: whether the run in it goes on.
    """

    sweep_dir: Path
    number: int
    continues: bool


def membership_environment(membership: Membership, pipe: int) -> dict[str, str]:
    """What the process of a job finds in its environment.

    Args:
        pipe: descriptor of the reading end, which the process inherits.
    """
    content = {
        "sweep_dir": str(membership.sweep_dir),
        "number": membership.number,
        "continues": membership.continues,
        "pipe": pipe,
    }
    return {_VARIABLE: json.dumps(content)}


def join_sweep() -> Membership | None:
    """The place of this process in a sweep, which it watches from now on; None for a run of its own."""
    told = os.environ.get(_VARIABLE)
    if told is None:
        return None
    content = json.loads(told)
    pipe = content.pop("pipe", None)
    if pipe is not None:
        # The further processes of a distributed job have not got the pipe; they end with the first.
        os.environ[_VARIABLE] = json.dumps(content)
        os.set_inheritable(pipe, False)
        threading.Thread(target=_end_with, args=(pipe,), name="sweep", daemon=True).start()
    return Membership(Path(content["sweep_dir"]), content["number"], content["continues"])


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
