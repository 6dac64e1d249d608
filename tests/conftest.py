"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from cxr.config import SCHEMAS

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"

# Many tests start the programs as processes of their own.  Without byte code each of them would compile torch, timm and
# Lightning anew, which takes longer than all the rest.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """Compose the configuration of train.py from overrides, as Hydra does, without its own part."""

    def composed(*overrides: str) -> DictConfig:
        OmegaConf.register_new_resolver("process_id", os.getpid, replace=True)
        ConfigStore.instance().store(name="schema", node=SCHEMAS["train"])
        with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            config = hydra.compose("train", list(overrides))
        with open_dict(config):
            config.pop("hydra", None)
        return config

    return composed
