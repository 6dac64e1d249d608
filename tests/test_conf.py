"""Does every shipped option compose, and does the checked schema hold what it says?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from cxr.config import SCHEMAS, TrainConfig, keys
from cxr.config_check import SettingError, check

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"
Compose = Callable[..., DictConfig]
OPTIONS = sorted(
    (folder.name, file.stem) for folder in CONF_DIR.iterdir() if folder.is_dir() for file in folder.glob("*.yaml")
)


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{group}={option}" for group, option in OPTIONS])
def test_every_option_composes(group: str, option: str, compose: Compose) -> None:
    rootless = ("class_folders", "table") if group == "data" else ("darkcovidnet",) if group == "experiment" else ()
    needs_root = ["data.root=somewhere"] if option in rootless else []
    plain = check(compose(f"{group}={option}", *needs_root), TrainConfig)
    if (
        group in plain
        and isinstance(plain[group], dict)
        and group not in ("trainer", "balance", "augment", "model", "sweep")
    ):
        assert plain[group]["name"] == option


def test_every_option_says_what_it_is_or_only_names_it() -> None:
    for group, option in OPTIONS:
        lines = (CONF_DIR / group / f"{option}.yaml").read_text().splitlines()
        assert any(line.startswith("#") for line in lines) or len(lines) == 1, (group, option)


def test_the_groups_that_the_design_names_are_there() -> None:
    groups = {group for group, _ in OPTIONS}
    assert groups == {
        "data", "model", "optimizer", "schedule", "loss", "balance", "augment", "trainer", "logger", "experiment",
        "sweep",
    }  # fmt: skip


def test_every_key_states_its_meaning() -> None:
    for schema in SCHEMAS.values():
        for key in keys(schema):
            assert key.metadata.get("meaning"), key.name


def test_the_environment_names_the_folder_of_the_data(monkeypatch: pytest.MonkeyPatch, compose: Compose) -> None:
    monkeypatch.setenv("CXR_DATA", "/elsewhere")
    assert check(compose(), TrainConfig)["paths"]["data"] == "/elsewhere"
    monkeypatch.delenv("CXR_DATA")
    assert check(compose(), TrainConfig)["paths"]["data"] == "data"


def test_an_experiment_outweighs_the_defaults_and_the_command_line_outweighs_it(compose: Compose) -> None:
    assert check(compose("experiment=demo"), TrainConfig)["data"]["name"] == "phantom"
    assert check(compose("experiment=demo", "data.image_size=48"), TrainConfig)["data"]["image_size"] == 48


def test_both_corrections_are_taken_when_asked_for(compose: Compose) -> None:
    both = ["balance=oversample", "balance.weighting=inverse_frequency"]
    with pytest.raises(SettingError, match="allow_both"):
        check(compose(*both), TrainConfig)
    assert check(compose(*both, "balance.allow_both=true"), TrainConfig)["balance"]["sampler"] == "oversample"


def test_a_third_class_is_a_setting(compose: Compose) -> None:
    plain = check(compose("++data.classes.viral=[Viral]"), TrainConfig)
    assert list(plain["data"]["classes"]) == ["covid", "other", "viral"]


@pytest.mark.parametrize(("typed", "kept"), [("imagenet", True), ("true", True), ("false", False)])
def test_pretrained_weights_have_one_plain_value(typed: str, kept: bool, compose: Compose) -> None:
    assert check(compose(f"model.pretrained={typed}"), TrainConfig)["model"]["pretrained"] is kept
