"""Who runs the jobs of a multirun: processes on this machine, Slurm, or Ray?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cxr.sweeps.devices import DevicePool, default_num_jobs, gpus_of_job, visible_gpus
from cxr.sweeps.display import Display
from cxr.sweeps.job import SweepJob
from cxr.sweeps.ray_jobs import RaySupervisor
from cxr.sweeps.slurm import GivenJobs, Shape, SlurmSupervisor, shape_of
from cxr.sweeps.supervisor import Supervisor

Settings = Mapping[str, Any]


class Runner(Protocol):
    """Runs jobs to their end.

    Attributes:
        alive: what the jobs are that run already, or wait to, by their numbers, see `cxr.resumption.identity`.
    """

    alive: Mapping[int, str]

    def run(self, entries: Sequence[SweepJob], identities: Sequence[str | None], display: Display) -> None:
        """Run those that are queued.

        Raises:
            ConfigurationError: they cannot be run.
            SystemExit: after SIGINT or SIGTERM.
        """
        ...


class HereRunner:
    """Processes on this machine.

    Args:
        settings: of the jobs, resolved; empty for one that cannot begin.
        n_jobs, gpus_per_job: see `ProcessLauncherConf`.

    Raises:
        ConfigurationError: there are not so many GPUs.
    """

    def __init__(self, settings: Sequence[Settings], *, n_jobs: int | None, gpus_per_job: int | None) -> None:
        self.alive: Mapping[int, str] = {}
        self._gpus = visible_gpus() if any(each and each["trainer"]["gpus"] != 0 for each in settings) else []
        self._gpus_of_jobs = [
            gpus_of_job(each["trainer"]["gpus"], gpus_per_job, len(self._gpus)) if each else 0 for each in settings
        ]
        self._num_jobs = default_num_jobs(self._gpus_of_jobs, len(self._gpus)) if n_jobs is None else n_jobs

    def run(self, entries: Sequence[SweepJob], identities: Sequence[str | None], display: Display) -> None:
        for entry, number in zip(entries, self._gpus_of_jobs, strict=True):
            entry.gpus = number
        pool = DevicePool(self._gpus, self._num_jobs, self._gpus_of_jobs)
        Supervisor(self._num_jobs, pool, display).run(entries)


class SlurmRunner:
    """Slurm, on whatever machine it finds.

    Args:
        settings: of the jobs, resolved; empty for one that cannot begin.
        sweep_dir: folder of the sweep.
        options: see `cxr.config.SlurmLauncher`.

    Raises:
        ConfigurationError: what a job takes is contradictory, or Slurm does not answer.
    """

    def __init__(self, settings: Sequence[Settings], sweep_dir: Path, options: Mapping[str, Any]) -> None:
        self._options = options
        self._shapes = [
            shape_of(each["trainer"], options["gpus_per_node"], options["partition"]) if each else Shape(1, 1, 0)
            for each in settings
        ]
        self._given = GivenJobs.read(sweep_dir)
        self.alive: Mapping[int, str] = self._given.alive()

    def run(self, entries: Sequence[SweepJob], identities: Sequence[str | None], display: Display) -> None:
        SlurmSupervisor(self._options, self._given, display).run(entries, self._shapes, identities)


class RayRunner:
    """Ray, on one machine or a cluster of them.

    Args:
        settings: of the jobs, resolved; empty for one that cannot begin.
        options: see `cxr.config.RayLauncher`.
    """

    def __init__(self, settings: Sequence[Settings], options: Mapping[str, Any]) -> None:
        self.alive: Mapping[int, str] = {}
        self._options = options
        asked = options["num_gpus_per_job"]
        self._gpus = [
            asked if asked is not None else max(0, each["trainer"]["gpus"] or 0) if each else 0 for each in settings
        ]

    def run(self, entries: Sequence[SweepJob], identities: Sequence[str | None], display: Display) -> None:
        RaySupervisor(self._options, display).run(entries, self._gpus)


def choose_runner(settings: Sequence[Settings], sweep_dir: Path, options: Mapping[str, Any]) -> Runner:
    """The one whose launcher was chosen: each has options of its own."""
    if "timeout_min" in options:
        return SlurmRunner(settings, sweep_dir, options)
    if "num_cpus_per_job" in options:
        return RayRunner(settings, options)
    return HereRunner(settings, **options)
