"""How does Hydra come to start every job of a multirun as a process of its own?  (hydra/launcher=process)

Hydra takes launchers from the namespace package ``hydra_plugins`` only. It executes this file at every start, without
entering it among the loaded modules: a dataclass with postponed annotations would not survive that, so there is no
``from __future__ import annotations`` here, and whatever takes time is imported when a sweep begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class ProcessLauncherConf:
    """n_jobs: jobs side by side; null: as many as have GPUs of their own, and one on a CPU.

    gpus_per_job: GPUs that each job sees; null: as many as its trainer.gpus asks for.
    """

    _target_: str = "hydra_plugins.process_launcher.ProcessLauncher"
    # `int | None` is not understood by every version of OmegaConf that Hydra 1.3 takes.
    n_jobs: Optional[int] = None  # noqa: UP045
    gpus_per_job: Optional[int] = None  # noqa: UP045


ConfigStore.instance().store(group="hydra/launcher", name="process", node=ProcessLauncherConf, provider="cxr")


class ProcessLauncher(Launcher):
    def __init__(self, n_jobs: int | None = None, gpus_per_job: int | None = None) -> None:
        self.n_jobs = n_jobs
        self.gpus_per_job = gpus_per_job

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function: Any = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs to its end; the return value of a job is its best validation AUROC."""
        if not hasattr(self.task_function, "run_batch"):
            raise RuntimeError(
                "hydra/launcher=process starts the jobs of cxr's train.py only; use hydra/launcher=basic"
            )
        loader = self.hydra_context.config_loader
        scores = self.task_function.run_batch(
            self.config,
            lambda overrides: loader.load_sweep_config(self.config, list(overrides)),
            job_overrides,
            initial_job_idx,
            {"n_jobs": self.n_jobs, "gpus_per_job": self.gpus_per_job},
        )
        return [
            JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=score)
            for overrides, score in zip(job_overrides, scores, strict=True)
        ]
