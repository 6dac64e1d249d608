"""How do the jobs of a sweep run side by side, so that none takes another with it, and how do all of them end?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from cxr.images.cache import usable_cores
from cxr.sweeps.devices import DevicePool
from cxr.sweeps.display import Display
from cxr.sweeps.job import SweepJob, note_end, note_refusal
from cxr.sweeps.process import JobProcess

_LOOK_EVERY = 0.1  # seconds between two looks at the processes: what a job may wait for its turn


class Supervisor:
    """Runs the jobs that are queued, so many at a time.

    Ctrl-C and SIGTERM are handed on to the jobs, once, and their ends are waited for; no further job begins. A second
    Ctrl-C kills.

    Args:
        num_jobs: how many run side by side, at least 1.
        devices: from which each gets its GPUs.
        display: is shown every change.
    """

    def __init__(self, num_jobs: int, devices: DevicePool, display: Display) -> None:
        self._num_jobs = num_jobs
        self._devices = devices
        self._display = display
        self._running: list[JobProcess] = []
        self._ended: list[JobProcess] = []  # of which something may be left
        self._asked: int | None = None  # the signal that came first
        self._told = False
        self._in_a_hurry = False

    def run(self, jobs: Sequence[SweepJob]) -> None:
        """Run all that are queued to their end, whatever it is.

        Raises:
            SystemExit: 130 or 143 after SIGINT or SIGTERM, when all have ended.
        """
        queue = [job for job in jobs if job.state == "queued"]
        with self._signals():
            try:
                while queue or self._running or self._ended:
                    self._settle()
                    if self._asked is not None:
                        queue.clear()
                        self._end_all(self._asked)
                    while queue and len(self._running) < self._num_jobs and self._start(queue[0]):
                        queue.pop(0)
                    self._display.show(jobs)
                    time.sleep(_LOOK_EVERY)
            finally:
                for process in [*self._running, *self._ended]:
                    process.kill()  # only after a defect of this loop is anything left
        if self._asked is not None:
            raise SystemExit(128 + self._asked)

    def _start(self, job: SweepJob) -> bool:
        """Whether the job has left the queue; False where it has to wait for a device."""
        devices = self._devices.take(job.gpus)
        if devices is None:
            return False
        job.devices = devices
        try:
            self._running.append(JobProcess(job, self._environment(job)))
        except OSError as error:
            self._devices.give_back(devices)
            note_refusal(job, f"cannot be started ({error.strerror})")
        else:
            job.state = "running"
        self._display.changed(job)
        return True

    def _environment(self, job: SweepJob) -> dict[str, str]:
        environment = dict(os.environ)
        if job.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(job.devices)
        if self._num_jobs > 1:
            # Each would take all cores otherwise, and threads that wait for each other's cores cost many times more
            # than they bring.
            processes = self._num_jobs * max(1, job.processes, job.gpus)
            environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
        return environment

    def _settle(self) -> None:
        for process in list(self._running):
            code = process.poll()
            if code is not None:
                self._running.remove(process)
                self._ended.append(process)
                self._devices.give_back(process.job.devices)
                note_end(process.job, code)
                if code < 0 and self._asked is None:
                    process.record_end(-code)
                self._display.changed(process.job)
        self._ended = [process for process in self._ended if not process.cleared()]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._on_signal) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked = number
        elif number == signal.SIGINT:
            self._in_a_hurry = True

    def _end_all(self, number: int) -> None:
        if not self._told:
            self._told = True
            name = signal.Signals(number).name
            self._display.say(f"{name}: the running jobs end between two batches; once more Ctrl-C kills them")
            for process in self._running:
                process.tell(number)
        if self._in_a_hurry:
            for process in self._running:
                process.kill()
