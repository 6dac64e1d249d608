"""Which GPUs does each job of a sweep see, and how many jobs run side by side?

torch is not asked: to start it takes seconds, and a process that has started CUDA keeps memory on every GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from cxr.errors import ConfigurationError


def visible_gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` may hold here: numbers or names of GPUs, or of the parts of a divided one (MIG)."""
    environment = os.environ if environment is None else environment
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        # CUDA itself stops at the first entry that is none.
        found = []
        for word in (word.strip() for word in given.split(",")):
            if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", word):
                break
            found.append(word)
        return found
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return read_list(done.stdout) if done.returncode == 0 else []


def read_list(text: str) -> list[str]:
    """The GPUs in what ``nvidia-smi -L`` prints: a number for each, or the names of its parts where it is divided."""
    found: dict[str, list[str]] = {}
    number = ""
    for line in text.splitlines():
        if whole := re.match(r"GPU (\d+):", line):
            number = whole.group(1)
            found[number] = []
        elif (part := re.search(r"UUID: (MIG-[^)\s]+)", line)) and number in found:
            found[number].append(part.group(1))
    return [name for number, parts in found.items() for name in (parts or [number])]


def gpus_of_job(gpus: int | None, gpus_per_job: int | None, num_visible: int) -> int:
    """How many GPUs one job takes.

    Args:
        gpus: ``trainer.gpus`` of the job.
        gpus_per_job: ``hydra.launcher.gpus_per_job``; None: what ``gpus`` says.
        num_visible: how many there are.

    Raises:
        ConfigurationError: ``gpus_per_job`` is more than there are, or less than the job asks for.
    """
    if gpus == 0 or num_visible == 0:
        return 0
    wanted = num_visible if gpus == -1 else 1 if gpus is None else gpus
    if gpus_per_job is None:
        return min(wanted, num_visible)  # the job itself says that it wants more
    if gpus_per_job > num_visible:
        raise ConfigurationError(
            f"hydra.launcher.gpus_per_job={gpus_per_job}: this machine offers {num_visible} GPU(s)"
        )
    if gpus not in (None, -1) and wanted > gpus_per_job:
        raise ConfigurationError(
            f"hydra.launcher.gpus_per_job={gpus_per_job}: less than trainer.gpus={gpus} of each job; leave it out"
        )
    return gpus_per_job


def default_num_jobs(gpus_of_jobs: Sequence[int], num_visible: int) -> int:
    """Jobs that run side by side where nobody said how many: as many as have GPUs of their own; on a CPU, one."""
    most = max(gpus_of_jobs, default=0)
    return max(1, num_visible // most) if most else 1


class DevicePool:
    """Deals out GPUs to jobs, the least used first; none to two jobs, unless ``num_jobs`` asks for more jobs than fit.

    Args:
        names: see `visible_gpus`.
        num_jobs: how many jobs run side by side.
        gpus_of_jobs: how many GPUs each job takes.
    """

    def __init__(self, names: Sequence[str], num_jobs: int, gpus_of_jobs: Sequence[int]) -> None:
        self._load = dict.fromkeys(names, 0)
        at_once = sum(sorted(gpus_of_jobs, reverse=True)[:num_jobs])
        self._limit = max(1, -(-at_once // len(names))) if names else 1

    def take(self, number: int) -> tuple[str, ...] | None:
        """So many devices; None where a job has to be over first."""
        free = sorted((name for name in self._load if self._load[name] < self._limit), key=self._load.__getitem__)
        if number > len(free):
            return None
        chosen = tuple(name for name in self._load if name in free[:number])  # in the order of the machine
        for name in chosen:
            self._load[name] += 1
        return chosen

    def give_back(self, devices: Sequence[str]) -> None:
        for name in devices:
            self._load[name] -= 1
