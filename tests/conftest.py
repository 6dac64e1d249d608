"""What all tests share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from cxr.config import SCHEMAS

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"

# Many tests start the programs as processes of their own.  Without byte code each of them would compile torch, timm and
# Lightning anew, which takes longer than all the rest.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Tests run side by side, and programs that they start do, too: threads that wait for each other's cores cost many times
# more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The files that stand here start whole programs and take longest: first, so that no worker is left alone with one.
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


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


@pytest.fixture
def no_wandb_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No key of whoever runs the tests is used, and none of their folders is written."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("before")))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def inspect_wandb() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads the records of an offline run with W&B's own reader."""

    def inspect(run: Path) -> list[dict[str, Any]]:
        program = shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"
        result = subprocess.run(
            [program, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=True
        )
        return [json.loads(line) for line in result.stdout.splitlines()]

    return inspect
