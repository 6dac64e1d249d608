"""With which program and on what machine was a run trained?  Nothing here tells whose machine it was.

No package is imported for its version, and no host, user, folder or remote address is asked for.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cxr", "torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics", "numpy", "scipy", "pandas",
            "matplotlib", "hydra-core", "wandb")  # fmt: skip
_GIB = 1024**3


def describe_environment(*, cuda: bool) -> dict[str, Any]:
    """What ``environment.json`` holds: ``git_commit``, ``git_dirty``, ``versions`` and ``machine``.

    Args:
        cuda: whether the run takes CUDA GPUs; only then are they asked for their names, which starts CUDA.
    """
    commit, dirty = git_state(Path(__file__).parent)
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": package_versions(),
        "machine": describe_machine(cuda=cuda),
    }


def package_versions() -> dict[str, str]:
    """The version of Python and of each of `PACKAGES`."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the source folder on the path, without an installation
            found[package] = "not installed as a package"
    return found


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout that ``folder`` belongs to, and whether files that git knows are changed.

    Returns:
        None and None where the folder is in no checkout, or is only installed within one of another program.
    """
    # What is installed below somebody's own repository is no part of that repository.
    if not _git(folder, "ls-files", "--", "."):
        return None, None
    described = _git(folder, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-dirty")
    if not described:
        return None, None
    return described.removesuffix("-dirty"), described.endswith("-dirty")


def describe_machine(*, cuda: bool) -> dict[str, Any]:
    """Processor, cores, memory and GPUs; None for what the system does not say.

    Args:
        cuda: whether to ask CUDA, see `describe_environment`.
    """
    machine: dict[str, Any] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "gpus": [],
        "gpu_driver": None,
        "cuda": None,
    }
    if cuda:
        import torch

        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        machine["gpus"] = [{"name": each.name, "memory_gib": round(each.total_memory / _GIB, 1)} for each in found]
        machine["gpu_driver"] = _driver()
        machine["cuda"] = torch.version.cuda
    return machine


def _git(folder: Path, *words: str) -> str | None:
    # A hook of git that starts a run tells of its own repository by these variables.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            # The jobs of a sweep ask at once: none may hold the lock of the index.
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            env=clean,
            timeout=10,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    except (AttributeError, OSError, ValueError):  # a system that is not POSIX
        return None


def _driver() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module\D*?(\d+(?:\.\d+)+)", text)
    return found.group(1) if found else None
