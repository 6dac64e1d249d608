"""How does Hydra come to search with Optuna?  (hydra/sweeper=optuna)

Executed by Hydra at every start, like `process_launcher`: no dataclass stands here, and Optuna is imported when a
search begins.
"""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from cxr.config import OptunaSweeper as OptunaSweeperConf

ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="cxr")


class OptunaSweeper(Sweeper):
    def __init__(self, **options: Any) -> None:
        self.options = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function: Any = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Search until the study has as many trials as were asked for."""
        if not hasattr(self.task_function, "run_study"):
            raise RuntimeError("hydra/sweeper=optuna searches with cxr's train.py only; use hydra/sweeper=basic")
        assert self.hydra_context is not None
        assert self.config is not None
        loader, config = self.hydra_context.config_loader, self.config
        self.task_function.run_study(
            config,
            lambda overrides: loader.load_sweep_config(config, list(overrides)),
            arguments,
            self.options,
        )
