"""How is the process of one job started, told to end, and cleared away?"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Mapping

from cxr.sweeps.child import Membership
from cxr.sweeps.job import SweepJob
from cxr.sweeps.program import start_program

# What a job leaves behind, such as the other processes of a distributed one, may end by itself for so long, seconds.
_GRACE = 5.0
# The tracking of a killed job is given so long to be closed, seconds.
_CLOSING = 120.0


class JobProcess:
    """A running job: a session of its own, so that Ctrl-C on the terminal reaches it through the sweep alone.

    Args:
        job: its console goes to ``job.console_path``, standard output and errors in their order.
        environment: of the process, without what this class adds.

    Raises:
        OSError: the process cannot be started, or its console cannot be written.
    """

    def __init__(self, job: SweepJob, environment: Mapping[str, str]) -> None:
        self.job = job
        self._started = time.monotonic()
        self._leftovers_until: float | None = None
        self._closing: subprocess.Popen[bytes] | None = None
        self._closing_until = 0.0
        reading, self._pipe = multiprocessing.Pipe(duplex=False)
        place = Membership(job.directory.path.parent, job.number, job.continues)
        try:
            job.directory.path.mkdir(parents=True, exist_ok=True)
            if job.continues:
                job.directory.write_status("running")  # no longer what the last process said of its end
            self._process = start_program(job.arguments, environment, job.console_path, place, reading)
        except BaseException:
            self._pipe.close()
            raise
        finally:
            reading.close()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The return code once the process has ended, minus the signal that ended it."""
        code = self._process.exitcode
        self.job.seconds = time.monotonic() - self._started
        if code is not None and self._leftovers_until is None:
            self._pipe.close()
            self._leftovers_until = time.monotonic() + _GRACE
            self._signal_group(signal.SIGTERM)
        return code

    def record_end(self, exit_status: int) -> None:
        """Let the tracking know how a killed job ended; nothing waits for it but the end of the sweep."""
        with self.job.console_path.open("ab") as console:
            self._closing = subprocess.Popen(
                [*self.job.end_command, str(exit_status)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._closing_until = time.monotonic() + _CLOSING

    def tell(self, number: int) -> None:
        """Send a signal to the job, which hands it on to its own further processes as it sees fit."""
        if self._process.exitcode is None:
            os.kill(self._pid, number)

    def kill(self) -> None:
        """End the job and all that it started on the spot."""
        if not self._signal_group(signal.SIGKILL) and self._process.exitcode is None:
            os.kill(self._pid, signal.SIGKILL)  # it has not come to have a session of its own

    def cleared(self) -> bool:
        """Whether nothing is left of a job that has ended; what stays too long is killed."""
        assert self._leftovers_until is not None
        if self._closing is not None:
            if self._closing.poll() is None and time.monotonic() < self._closing_until:
                return False
            self._closing.kill()
            self._closing.wait()
            self._closing = None
        if not self._signal_group(0):
            return True
        if time.monotonic() > self._leftovers_until:
            self.kill()
        return False

    def _signal_group(self, number: int) -> bool:
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):  # macOS refuses where only the dead are left
            return False
        return True
