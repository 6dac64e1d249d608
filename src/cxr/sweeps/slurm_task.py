"""What does one task of a Slurm job do?  It starts the program of a job of the sweep and stays beside it.

Slurm starts a task on every device of a distributed job. Each starts the program once, as every launcher does; the
first keeps the books, and asks Slurm to put the job into the queue again where its time runs out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cxr.interruption import TIME_RUNS_OUT
from cxr.sweeps.child import Membership, membership_environment
from cxr.sweeps.job import SweepJob, describe_end, note_end
from cxr.sweeps.slurm_queue import put_back
from cxr.training.run_directory import JOIN_VARIABLE

_LOOK_EVERY = 0.2  # seconds
_CLOSING = 120.0  # what may take so long after the end of a program, seconds


@dataclass
class SlurmTask:
    """What is given to Slurm; called in each task of the job.

    Attributes:
        job: which job of the sweep.
        max_num_timeout: how often its time may run out before it counts as failed.
    """

    job: SweepJob
    max_num_timeout: int

    def __call__(self) -> NoReturn:
        """Run the program to its end.

        Raises:
            SystemExit: in the end; where the program failed not with 0, so that Slurm ends the other tasks. submitit
                would write down a result, which nobody reads.
        """
        rank, restarts = (int(os.environ.get(name, "0")) for name in ("SLURM_PROCID", "SLURM_RESTART_COUNT"))
        directory = self.job.directory
        begun = directory.config_path.is_file()
        self.job.continues = self.job.continues or (restarts > 0 and begun)
        if rank != 0:
            raise SystemExit(self._run_further(rank))
        self._failures_path.unlink(missing_ok=True)
        if not begun:  # what was ended before it had a configuration left nothing but a status
            directory.status_path.unlink(missing_ok=True)
        program = _Program(self.job, 0, self.job.console_path)
        code = program.wait()
        note_end(self.job, code)
        if self.job.state != "failed":
            raise SystemExit(0)
        if self._failures_path.is_file():  # Slurm has then ended this process, too
            reason = self._failures_path.read_text(encoding="utf-8").splitlines()[0]
            directory.write_status("failed", reason=reason, exit_status=1)
        elif program.time_ran_out:
            self._go_on(restarts)
            raise SystemExit(0)
        elif program.was_told and (code < 0 or code > 128):
            directory.write_status("interrupted", reason="ended by Slurm", exit_status=143)
            raise SystemExit(0)
        if code < 0:
            subprocess.run([*self.job.end_command, str(-code)], timeout=_CLOSING)
        raise SystemExit(abs(code))

    @property
    def _failures_path(self) -> Path:
        """Where a further process of the job says that it failed, and why."""
        return self.job.directory.path / ".failed_processes"

    def _run_further(self, rank: int) -> int:
        console_path = self.job.directory.path / f"console_{rank}.log"
        program = _Program(self.job, rank, console_path)
        code = program.wait()
        if code == 0 or program.was_told:
            return 0
        with self._failures_path.open("a", encoding="utf-8") as file:
            file.write(f"process {rank}: {describe_end(code, console_path)}\n")
        return abs(code)

    def _go_on(self, restarts: int) -> None:
        if restarts >= self.max_num_timeout:
            reason = f"time limit reached {restarts + 1} times; raise hydra.launcher.timeout_min or max_num_timeout"
        else:
            refused = put_back(os.environ["SLURM_JOB_ID"])
            if refused is None:
                time.sleep(_CLOSING)  # Slurm ends this task
                return
            reason = f"time limit reached, and Slurm does not put the job into the queue again: {refused}"
        self.job.directory.write_status("failed", reason=reason, exit_status=1)


class _Program:
    """The program of a job: a process that ends with this one, and is told of the signals that come.

    Attributes:
        was_told: whether Slurm told it to end.
        time_ran_out: whether Slurm said that as the reason.
    """

    def __init__(self, job: SweepJob, rank: int, console_path: Path) -> None:
        self.was_told = False
        self.time_ran_out = False
        self._told: list[int] = []
        for number in (signal.SIGTERM, TIME_RUNS_OUT):
            if number is not None:
                signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        reading, writing = os.pipe()  # closed by the system when this process is gone
        place = Membership(job.directory.path.parent, job.number, job.continues)
        job.directory.path.mkdir(parents=True, exist_ok=True)
        if job.continues and rank == 0:
            job.directory.write_status("running")  # no longer what the last process said of its end
        with console_path.open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**_environment(os.environ, job, rank), **membership_environment(place, reading)},
                pass_fds=(reading,),
                start_new_session=True,  # signals come through this process alone
            )
        os.close(reading)
        self._pipe = writing

    def wait(self) -> int:
        """The return code of the program, minus the signal that ended it."""
        while (code := self._process.poll()) is None:
            while self._told:
                self._process.send_signal(self._told.pop(0))
            time.sleep(_LOOK_EVERY)
        return code

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.was_told = True
        self.time_ran_out = self.time_ran_out or number == TIME_RUNS_OUT
        self._told.append(number)


def _environment(environment: Mapping[str, str], job: SweepJob, rank: int) -> dict[str, str]:
    own = {**environment, "PYTHONUNBUFFERED": "1"}
    if rank != 0:
        own[JOIN_VARIABLE] = str(job.directory.path)
    if "SLURM_CPUS_PER_TASK" in own:
        own.setdefault("OMP_NUM_THREADS", own["SLURM_CPUS_PER_TASK"])
    return own
