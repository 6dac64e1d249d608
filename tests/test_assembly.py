"""Do data and network become what was asked for, and is a split that divides a patient refused?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from omegaconf import DictConfig

from cxr.assembly import build_data, build_module
from cxr.command_line import Job
from cxr.config import TrainConfig
from cxr.config_check import check
from cxr.errors import DataError
from cxr.open_run import OpenRun
from cxr.training.run_directory import RunDirectory

Read = Callable[..., tuple[pd.DataFrame, RunDirectory]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is prepared and searched once serves all: the pictures are the same."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_run(tmp_path: Path, cache: Path, compose: Callable[..., DictConfig]) -> Callable[..., OpenRun]:
    """A run on a small phantom, with what overrides say."""

    def opened(*overrides: str) -> OpenRun:
        small = [
            "data=phantom",
            "++data.sources.phantom.num_patients=24",
            "++data.sources.phantom.size=64",
            "data.image_size=32",
            f"paths.output={tmp_path}",
            f"paths.cache={cache}",
        ]
        settings: dict[str, Any] = check(compose(*small, *overrides), TrainConfig)
        directory = RunDirectory.create(tmp_path, "run")
        return OpenRun(Job(settings, list(overrides), None, 0), directory, first=True)

    return opened


@pytest.fixture
def read(small_run: Callable[..., OpenRun]) -> Read:
    """The records of a small phantom, divided as overrides say, and the run that kept them."""

    def records(*overrides: str) -> tuple[pd.DataFrame, RunDirectory]:
        run = small_run(*overrides)
        return build_data(run.job.settings, run).records, run.directory

    return records


@pytest.fixture
def leaking_split(read: Read, tmp_path: Path) -> Path:
    """A split.csv in which one patient stands on two sides."""
    _, directory = read()
    table = pd.read_csv(directory.split_path, dtype=str)
    shared = table.loc[table["split"] == "train", "group"].value_counts().index[0]
    first = table.index[table["group"] == shared][0]
    table.loc[first, "split"] = "val"
    path = tmp_path / "leaking.csv"
    table.to_csv(path, index=False)
    return path


def test_a_split_that_divides_a_patient_is_refused(leaking_split: Path, read: Read) -> None:
    given = ["data.split.kind=file", f"data.split.path={leaking_split}"]
    with pytest.raises(DataError, match=r"1 patients stand on two sides.*audit\.on_leak=warn"):
        read(*given)


def test_a_leak_that_is_allowed_is_said(leaking_split: Path, read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    read("data.split.kind=file", f"data.split.path={leaking_split}", "audit.on_leak=warn")
    assert "LEAK: 1 patients" in capsys.readouterr().out


def test_the_split_by_image_says_that_it_leaks(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    records, _ = read("data.split.kind=random_image")
    divided = (records.groupby("group")["split"].nunique() > 1).sum()
    assert divided > 0
    assert f"LEAKS. {divided} patients" in " ".join(capsys.readouterr().out.split())


def test_folds_by_image_are_what_was_asked_for_and_say_that_they_leak(
    read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    records, _ = read("data.split.kind=kfold", "data.split.unit=image")
    assert (records.groupby("group")["split"].nunique() > 1).any()
    assert "data.split.unit=image divides images, not patients: it LEAKS." in " ".join(capsys.readouterr().out.split())


def test_a_country_left_out_is_the_test_set(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    records, directory = read("data.split.kind=leave_one_out", "data.split.column=country", "data.split.value=Spain")
    assert ((records["split"] == "test") == (records["country"] == "Spain")).all()
    assert "LEAK" not in capsys.readouterr().out
    assert (directory.path / "audit.json").is_file()


def test_a_split_given_back_divides_in_the_same_way(read: Read) -> None:
    first, directory = read("data.split.seed=3")
    again, _ = read("data.split.kind=file", f"data.split.path={directory.split_path}")
    assert first["split"].tolist() == again["split"].tolist()


def test_weights_of_a_run_and_shares_of_the_classes_reach_the_network(
    small_run: Callable[..., OpenRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = RunDirectory.create(tmp_path, "pretraining")
    given = timm.create_model("test_resnet", num_classes=5).state_dict()
    earlier.checkpoints_dir.mkdir(exist_ok=True)
    torch.save({"state_dict": {f"network.{name}": each for name, each in given.items()}}, earlier.best_checkpoint_path)
    run = small_run(
        "model.name=test_resnet",
        "model.head=concat_pool",
        f"model.weights={earlier.path}",
        "loss=logit_adjusted",
        "loss.tau=0.5",
        "audit.shortcuts=false",
        "data.look_for_copies=false",
    )
    data = build_data(run.job.settings, run)
    module = build_module(run.job.settings, data, run)
    shares = data.records.loc[data.records["split"] == "train", "label"].value_counts(normalize=True)
    assert module.hparams["class_priors"] == pytest.approx([shares[name] for name in data.class_names])
    assert module.hparams["loss"]["tau"] == 0.5
    torch.testing.assert_close(module.network.get_parameter("conv1.0.weight"), given["conv1.0.weight"])
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of the file left out: fc.bias, fc.weight" in said
    assert "start afresh: fc.layers.0.bias, " in said
