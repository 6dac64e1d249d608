"""How does Ray run the jobs of a sweep, on one machine or on those of a cluster?

Ray runs a task for each job where it finds room; the task starts the program of the job, as every launcher does.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cxr.errors import ConfigurationError
from cxr.interruption import asked_through
from cxr.sweeps.child import Membership, membership_environment
from cxr.sweeps.display import Display
from cxr.sweeps.job import SweepJob, note_end, note_lost

_LOOK_EVERY = 0.5  # seconds


def require_ray() -> None:
    """Refuse where Ray is not installed.

    Raises:
        ConfigurationError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError("hydra/launcher=ray: install it with the extra cxr[ray]")


class RaySupervisor:
    """Gives the jobs that are queued to Ray, and waits for all.

    Ctrl-C and SIGTERM end those that run between two batches, and take the others back.

    Args:
        options: see `cxr.config.RayLauncher`.
        display: is shown every change.
    """

    def __init__(self, options: Mapping[str, Any], display: Display) -> None:
        self._options = options
        self._display = display
        self._asked: int | None = None
        self._begun: dict[int, float] = {}

    def run(self, jobs: Sequence[SweepJob], gpus: Sequence[int]) -> None:
        """Run all that are queued to their end, whatever it is.

        Args:
            gpus: that each takes.

        Raises:
            ConfigurationError: there is no Ray at the address.
            SystemExit: 130 or 143 after SIGINT or SIGTERM.
        """
        queued = [(job, number) for job, number in zip(jobs, gpus, strict=True) if job.state == "queued"]
        if not queued:
            return
        import ray

        try:
            ray.init(
                address=self._options["address"],
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            raise ConfigurationError(f"hydra.launcher.address={self._options['address']}: {text}") from None
        run = ray.remote(run_program)
        with asked_through(self._on_signal):
            waiting: dict[Any, SweepJob] = {}
            for job, number in queued:
                cores = self._options["num_cpus_per_job"]
                waiting[run.options(num_cpus=cores, num_gpus=number, max_retries=0).remote(job, str(Path.cwd()))] = job
                job.place = "a task of Ray"
                self._display.changed(job)
            cancelled = False
            while waiting:
                if self._asked is not None and not cancelled:
                    cancelled = True
                    self._display.say(f"{signal.Signals(self._asked).name}: the running jobs end between two batches")
                    for task in waiting:
                        ray.cancel(task)
                ended, _ = ray.wait(list(waiting), timeout=_LOOK_EVERY)
                for job in waiting.values():
                    self._look(job)
                for task in ended:
                    self._settle(waiting.pop(task), task)
                self._display.show(jobs)
        ray.shutdown()
        if self._asked is not None:
            raise SystemExit(128 + self._asked)

    def _look(self, job: SweepJob) -> None:
        if job.state == "running":
            job.seconds = time.monotonic() - self._begun[job.number]
        elif job.directory.read_status().get("status") == "running":
            self._begun[job.number] = time.monotonic()
            job.state = "running"
            self._display.changed(job)

    def _settle(self, job: SweepJob, task: Any) -> None:
        import ray

        try:
            note_end(job, ray.get(task))
        except ray.exceptions.RayError as error:
            text = " ".join(str(error).split())[:200]
            lost = note_lost(job, f"Ray: {text or type(error).__name__}")
            if lost and self._asked is None:
                subprocess.run([*job.end_command, "1"], capture_output=True, timeout=120)
        self._display.changed(job)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked = number


def run_program(job: SweepJob, folder: str) -> int:
    """The task of a job: start its program and wait for it; cancelled, it tells the program to end.

    Args:
        folder: from which it is started.

    Returns:
        Its return code, minus the signal that ended it.
    """
    reading, writing = os.pipe()  # closed by the system when this process is gone; the program ends then, too
    try:
        job.directory.path.mkdir(parents=True, exist_ok=True)
        if job.continues:
            job.directory.write_status("running")
        place = Membership(job.directory.path.parent, job.number, job.continues)
        with job.console_path.open("ab") as console:
            process = subprocess.Popen(
                [sys.executable, *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **membership_environment(place, reading)},
                pass_fds=(reading,),
                start_new_session=True,
            )
        try:
            while process.poll() is None:
                time.sleep(_LOOK_EVERY)
        except KeyboardInterrupt:  # so Ray cancels a task
            process.terminate()
            process.wait()
        return int(process.returncode)
    finally:
        os.close(reading)
        os.close(writing)
