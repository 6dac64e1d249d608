"""How do the jobs of a sweep run side by side, so that none takes another with it, and how do all of them end?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Protocol

from cxr.images.cache import usable_cores
from cxr.interruption import SAME_INTERRUPT, asked_through
from cxr.sweeps.devices import DevicePool
from cxr.sweeps.display import Display
from cxr.sweeps.job import SweepJob, note_end, note_refusal
from cxr.sweeps.process import JobProcess

_LOOK_EVERY = 0.1  # seconds between two looks at the processes: what a job may wait for its turn


class Source(Protocol):
    """Where jobs come from that nobody knew when the first began."""

    def next(self) -> SweepJob | None:
        """The job that begins now; None where there is none for now."""
        ...

    def ended(self, job: SweepJob, *, asked_to: bool) -> None:
        """Is told of each job that has ended, and whether all had been told to."""
        ...


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
        self._asked_at = 0.0
        self._told = False
        self._in_a_hurry = False
        self._source: Source | None = None

    def run(self, jobs: Sequence[SweepJob], source: Source | None = None) -> None:
        """Run all that are queued to their end, whatever it is, and then whatever the source has, as places get free.

        Raises:
            SystemExit: 130 or 143 after SIGINT or SIGTERM, when all have ended.
        """
        jobs = list(jobs)
        queue = [job for job in jobs if job.state == "queued"]
        self._source = source
        with asked_through(self._on_signal):
            try:
                while self._fetch(jobs, queue) or queue or self._running or self._ended:
                    self._settle()
                    if self._asked is not None:
                        queue.clear()
                        self._end_all(self._asked)
                    while len(self._running) < self._num_jobs:
                        self._fetch(jobs, queue)
                        if not queue or not self._start(queue[0]):
                            break
                        queue.pop(0)
                    self._display.show(jobs)
                    time.sleep(_LOOK_EVERY)
            finally:
                for process in [*self._running, *self._ended]:
                    process.kill()  # only after a defect of this loop is anything left
        if self._asked is not None:
            raise SystemExit(128 + self._asked)

    def _fetch(self, jobs: list[SweepJob], queue: list[SweepJob]) -> bool:
        """Whether the source had a job for a place that is free."""
        if self._source is None or self._asked is not None or queue or len(self._running) >= self._num_jobs:
            return False
        job = self._source.next()
        if job is not None:
            jobs.append(job)
            queue.append(job)
        return job is not None

    def _note(self, job: SweepJob) -> None:
        if self._source is not None:
            self._source.ended(job, asked_to=self._asked is not None)
        self._display.changed(job)

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
            self._note(job)
        else:
            job.state = "running"
            self._display.changed(job)
        return True

    def _environment(self, job: SweepJob) -> dict[str, str]:
        environment = {**os.environ, **job.environment}
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
                self._note(process.job)
        self._ended = [process for process in self._ended if not process.cleared()]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked, self._asked_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._asked_at > SAME_INTERRUPT:
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
