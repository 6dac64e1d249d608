"""How are the jobs of a sweep given to Slurm, and how is their end waited for?"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from cxr.errors import ConfigurationError
from cxr.files import write_atomically
from cxr.interruption import asked_through
from cxr.sweeps.display import Display
from cxr.sweeps.job import SweepJob, note_lost
from cxr.sweeps.slurm_queue import cancel, is_alive, is_on, last_state, offers_gpus, states
from cxr.sweeps.slurm_task import SlurmTask

_LOOK_EVERY = 5.0  # seconds between two questions to Slurm, whose controller serves all users
_PATIENCE = 20.0  # what was written on another machine may come late through a network file system, seconds


@dataclass(frozen=True)
class Shape:
    """What a job takes; those of one shape become one array.

    Attributes:
        nodes, tasks_per_node, gpus_per_node: machines, and processes and GPUs on each.
    """

    nodes: int
    tasks_per_node: int
    gpus_per_node: int


def shape_of(trainer: Mapping[str, Any], gpus_per_node: int | None, partition: str | None) -> Shape:
    """What a job with these settings of its trainer takes.

    Args:
        gpus_per_node: ``hydra.launcher.gpus_per_node``; None: as ``trainer.gpus`` says.
        partition: where it will run.

    Raises:
        ConfigurationError: the two contradict each other.
    """
    gpus, distributed = trainer["gpus"], trainer["strategy"] == "ddp"
    if gpus == -1 and gpus_per_node is None:
        raise ConfigurationError(
            "trainer.gpus=-1 with hydra/launcher=slurm: how many are all? set hydra.launcher.gpus_per_node, or "
            "trainer.gpus to a number"
        )
    if gpus_per_node is None:
        asked = (1 if offers_gpus(partition) else 0) if gpus is None else gpus
    else:
        asked = gpus_per_node
        if gpus not in (None, -1) and gpus > gpus_per_node:
            raise ConfigurationError(
                f"hydra.launcher.gpus_per_node={gpus_per_node}: less than trainer.gpus={gpus} of each job; leave it out"
            )
    used = asked if gpus == -1 else min(asked, 1) if gpus is None else gpus
    processes = trainer["num_processes"]
    on_cpu = processes if processes is not None else 2 if distributed else 1
    tasks = (max(used, 1) if distributed else 1) if used else on_cpu
    if trainer["num_nodes"] > 1 and not distributed:
        raise ConfigurationError(f"trainer.num_nodes={trainer['num_nodes']}: several machines need trainer=ddp")
    return Shape(trainer["num_nodes"], tasks, asked)


@dataclass
class GivenJobs:
    """Which job of a sweep is which of Slurm's; kept in the sweep folder, so that a sweep that goes on finds them.

    Attributes:
        path: of the file.
        entries: number of the job -> ``id`` in Slurm, and ``identity``: what it is.
    """

    path: Path
    entries: dict[int, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, sweep_dir: Path) -> GivenJobs:
        path = sweep_dir / "slurm" / "jobs.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            content = {}
        return cls(path, {int(number): entry for number, entry in content.items()})

    def alive(self) -> dict[int, str]:
        """What those are that still wait or run, by their numbers.

        Raises:
            ConfigurationError: Slurm does not say.
        """
        known = states([entry["id"] for entry in self.entries.values()])
        if known is None:
            raise ConfigurationError("hydra/launcher=slurm: squeue does not answer; is the controller running?")
        return {
            number: entry["identity"] for number, entry in self.entries.items() if is_alive(known.get(entry["id"], ""))
        }

    def add(self, number: int, job_id: str, identity: str) -> None:
        self.entries[number] = {"id": job_id, "identity": identity}
        write_atomically(self.path, json.dumps(self.entries, indent=2) + "\n")


class SlurmSupervisor:
    """Gives the jobs that are queued to Slurm, an array for each shape, and waits until none is left there.

    Ctrl-C and SIGTERM cancel them: those that run end between two batches. When this process is killed, or its terminal
    is closed, they go on without it, and the same command waits for them again.

    Args:
        options: see `cxr.config.SlurmLauncher`.
        given: which are there already.
        display: is shown every change.
    """

    def __init__(self, options: Mapping[str, Any], given: GivenJobs, display: Display) -> None:
        self._options = options
        self._given = given
        self._display = display
        self._asked: int | None = None
        self._in_a_hurry = False
        self._ids: dict[int, str] = {}
        self._started: dict[int, float] = {}

    def run(self, jobs: Sequence[SweepJob], shapes: Sequence[Shape], identities: Sequence[str | None]) -> None:
        """Run all that are queued to their end, whatever it is.

        Raises:
            ConfigurationError: Slurm refused them.
            SystemExit: 130 or 143 after SIGINT or SIGTERM, when all have ended.
        """
        queued = [index for index, job in enumerate(jobs) if job.state == "queued"]
        with self._signals():
            for index in queued:
                if jobs[index].attached:
                    self._ids[jobs[index].number] = self._given.entries[jobs[index].number]["id"]
            new = [index for index in queued if not jobs[index].attached]
            for shape in dict.fromkeys(shapes[index] for index in new):
                chosen = [index for index in new if shapes[index] == shape]
                for index, job_id in zip(chosen, self._submit([jobs[i] for i in chosen], shape), strict=True):
                    self._ids[jobs[index].number] = job_id
                    self._given.add(jobs[index].number, job_id, identities[index] or "")
            for index in queued:
                jobs[index].place = f"Slurm job {self._ids[jobs[index].number]}"
                self._display.changed(jobs[index])
            self._wait(jobs, [jobs[index] for index in queued])
        if self._asked is not None:
            raise SystemExit(128 + self._asked)

    def _submit(self, jobs: Sequence[SweepJob], shape: Shape) -> list[str]:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        options = self._options
        executor = submitit.SlurmExecutor(self._given.path.parent)
        wanted = {
            "job_name": f"cxr-{jobs[0].directory.path.parent.name}"[:64],
            "time": options["timeout_min"],
            "nodes": shape.nodes,
            "ntasks_per_node": shape.tasks_per_node,
            "gpus_per_node": shape.gpus_per_node or None,
            "mem": None if options["mem_gb"] is None else f"{round(options['mem_gb'] * 1024)}MB",
            "stderr_to_stdout": True,
            **{
                name: options[name] or None
                for name in ("partition", "account", "qos", "cpus_per_task", "array_parallelism", "setup")
            },
            "signal_delay_s": options["signal_delay_s"],
            # One failed process ends the others, which would wait for it; and the cores are said to srun once more,
            # which no longer takes them over.
            "srun_args": [
                "--kill-on-bad-exit=1",
                *([] if options["cpus_per_task"] is None else [f"--cpus-per-task={options['cpus_per_task']}"]),
                *options["srun_args"],
            ],
            "additional_parameters": {"requeue": True, **options["additional_parameters"]},
        }
        for job in jobs:
            job.directory.path.mkdir(parents=True, exist_ok=True)
        try:
            with redirect_stderr(io.StringIO()):  # what sbatch says stands in the error below
                return self._give(executor, jobs, wanted)
        except (FailedJobError, FailedSubmissionError) as error:
            lines = [line.removeprefix("sbatch: error: ").strip() for line in str(error).splitlines()]
            raise ConfigurationError(
                f"hydra/launcher=slurm: sbatch refused the jobs: {'; '.join(filter(None, lines)) or 'it says not why'}"
            ) from None

    def _give(self, executor: Any, jobs: Sequence[SweepJob], wanted: Mapping[str, Any]) -> list[str]:
        executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
        with executor.batch():
            given = [executor.submit(SlurmTask(job, self._options["max_num_timeout"])) for job in jobs]
        return [job.job_id for job in given]

    def _wait(self, shown: Sequence[SweepJob], jobs: Sequence[SweepJob]) -> None:
        left, cancelled, looked = list(jobs), False, 0.0
        while left:
            if self._asked is not None and not cancelled:
                cancelled, looked = True, 0.0
                name = signal.Signals(self._asked).name
                self._display.say(f"{name}: the jobs are taken from Slurm; those that run end between two batches")
                cancel([self._ids[job.number] for job in left])
            if self._in_a_hurry:
                return
            if time.monotonic() - looked > _LOOK_EVERY:
                looked = time.monotonic()
                known = states([self._ids[job.number] for job in left])
                for job in list(left) if known is not None else []:
                    assert known is not None
                    if self._settle(job, known.get(self._ids[job.number])):
                        left.remove(job)
            self._display.show(shown)
            time.sleep(0.2)

    def _settle(self, job: SweepJob, state: str | None) -> bool:
        """Take over how Slurm says that a job stands; whether it has ended."""
        runs = state is not None and is_on(state)
        if runs:
            job.seconds = time.monotonic() - self._started.setdefault(job.number, time.monotonic())
        if state is not None and is_alive(state):
            now = "running" if runs else "queued"
            if state != "COMPLETING" and now != job.state:
                job.continues = job.continues or job.state == "running"
                job.state = now  # type: ignore[assignment]
                self._display.changed(job)
            return False
        until = time.monotonic() + _PATIENCE
        while job.directory.read_status().get("status") == "running" and time.monotonic() < until:
            time.sleep(0.5)
        if note_lost(job, f"Slurm job {self._ids[job.number]}: {self._why(job, state)}") and self._asked is None:
            subprocess.run([*job.end_command, "1"], capture_output=True, timeout=120)
        self._display.changed(job)
        return True

    def _why(self, job: SweepJob, state: str | None) -> str:
        state = state or last_state(self._ids[job.number]) or "gone"
        why = {"OUT_OF_MEMORY": ", raise hydra.launcher.mem_gb", "TIMEOUT": ", raise hydra.launcher.timeout_min"}
        log = next(iter(sorted(self._given.path.parent.glob(f"{self._ids[job.number]}_*log.out"))), None)
        return f"{state}{why.get(state, '')}" + ("" if log is None else f" (see {os.path.relpath(log)})")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        # A terminal that is closed ends this process only; the jobs are Slurm's.
        hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            with asked_through(self._on_signal):
                yield
        finally:
            signal.signal(signal.SIGHUP, hang_up)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked = number
        elif number == signal.SIGINT:
            self._in_a_hurry = True
