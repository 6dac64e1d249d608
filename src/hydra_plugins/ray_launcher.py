"""How does Hydra come to give every job of a multirun to Ray?  (hydra/launcher=ray)

Executed by Hydra at every start, like `process_launcher`: no dataclass stands here, and what takes time is imported
when a sweep begins.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cxr.config import RayLauncher as RayLauncherConf

ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayLauncherConf, provider="cxr")


class RayLauncher(Launcher):
    def __init__(self, **options: Any) -> None:
        self.options = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function: Any = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs to its end; the return value of a job is its best validation AUROC."""
        if not hasattr(self.task_function, "run_batch"):
            raise RuntimeError("hydra/launcher=ray starts the jobs of cxr's train.py only; use hydra/launcher=basic")
        loader = self.hydra_context.config_loader
        scores = self.task_function.run_batch(
            self.config,
            lambda overrides: loader.load_sweep_config(self.config, list(overrides)),
            job_overrides,
            initial_job_idx,
            self.options,
        )
        return [
            JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=score)
            for overrides, score in zip(job_overrides, scores, strict=True)
        ]
