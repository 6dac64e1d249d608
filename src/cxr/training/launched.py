"""Was this process started as one of several of a run, by torchrun or by Slurm, and what do they have to know?

Lightning starts the further processes of a run itself, with all that they need in their environment. Those that
torchrun starts begin at the same time as the first, and learn from it through torchrun's own store where the run lies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.errors import ConfigurationError

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

# The first process makes the directory before it reads any data; the others wait so long for it.
_PATIENCE = timedelta(minutes=5)


def by_torchrun(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in (os.environ if environment is None else environment)


def by_srun(environment: Mapping[str, str] | None = None) -> bool:
    """Whether ``srun`` started this process as one of several; the script of a Slurm job itself is none of them."""
    environment = os.environ if environment is None else environment
    return int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def require_fitting(devices: int, num_nodes: int, strategy: str) -> None:
    """Refuse a number of processes that is not that of the devices.

    Raises:
        ConfigurationError: it is not, or the processes would not know of each other.
    """
    if by_torchrun():
        started, who = int(os.environ["WORLD_SIZE"]), "torchrun"
    elif by_srun():
        started, who = int(os.environ["SLURM_STEP_NUM_TASKS"]), "srun"
    else:
        return
    if started > 1 and strategy != "ddp":
        raise ConfigurationError(f"trainer.strategy={strategy}: {who} started {started} processes; use trainer=ddp")
    if started != devices * num_nodes:
        raise ConfigurationError(
            f"{who} started {started} processes, and this run has {devices} on each of {num_nodes} machine(s); set "
            "trainer.gpus (on a CPU trainer.num_processes) to those of one machine, and trainer.num_nodes"
        )


def cluster_environment() -> ClusterEnvironment | None:
    """How Lightning finds the other processes; None: as it sees fit.

    In the script of a Slurm job it would take them for started, and none would be.
    """
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if "SLURM_JOB_ID" not in os.environ:
        return None
    if by_torchrun():
        return TorchElasticEnvironment()
    # Whoever started the job puts it into the queue again; two would do it twice.
    return SLURMEnvironment(auto_requeue=False) if by_srun() else LightningEnvironment()


def tell_directory(path: Path) -> None:
    """Let the processes know that torchrun started beside this one where their run lies."""
    store = _store()
    if store is not None:
        store.set(_key(), str(path))


def ask_directory() -> Path | None:
    """Where the run lies that this process takes part in; None where torchrun did not start it.

    Raises:
        ConfigurationError: the first process did not say so.
    """
    store = _store()
    if store is None:
        return None
    try:
        return Path(store.get(_key()).decode())
    except RuntimeError:  # of which torch's own timeout is one
        raise ConfigurationError("torchrun: the first process has not begun; see what it printed") from None


def _store() -> Any:
    if not by_torchrun() or os.environ["WORLD_SIZE"] == "1" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    import torch

    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    store.set_timeout(_PATIENCE)
    return store


def _key() -> str:
    # What is started again after a failure is another run.
    return f"cxr/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
