"""A sweep under W&B, from real jobs to what a server receives: names, one folder, artifacts, lineage, no patient."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import yaml
from tests.wandb_server import ENTITY, WandbServer, serve

from cxr.training.artifacts import hashed_split
from cxr.training.offline_runs import find_offline_runs
from cxr.training.run_directory import RunDirectory
from cxr.training.tracked_run import recall

ROOT = Path(__file__).resolve().parents[1]
SWEEP = [
    "experiment=demo",
    "data.sources.phantom.num_patients=40",
    "data.sources.phantom.size=64",
    "data.image_size=32",
    "model.name=resnet10t",
    "trainer.max_epochs=1",
    "trainer.gpus=0",
    "trainer.log_every_n_steps=1",
    "logger.notes=two ways",
    "balance=none,oversample",
]


def call(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "CXR_"))}
    (cwd / "home").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**clean, "HOME": str(cwd / "home"), **environment},
        timeout=280,
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs and an evaluation of the second."""
    folder = tmp_path_factory.mktemp("swept")
    done = call(str(ROOT / "train.py"), "-m", *SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    (found,) = (folder / "outputs" / "demo").iterdir()
    quick = ["trainer.gpus=0", "saliency=0", "shortcuts=false"]
    done = call(str(ROOT / "evaluate.py"), f"run={found / '1'}", *quick, cwd=folder)
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def copied(sweep: Path) -> Iterator[Path]:
    """The sweep, where W&B's files are put back after the test: what is sent gets a mark."""
    kept = sweep.parent.parent / "kept"
    shutil.copytree(sweep / "tracking" / "wandb", kept, symlinks=True)
    yield sweep
    shutil.rmtree(sweep / "tracking" / "wandb")
    shutil.move(kept, sweep / "tracking" / "wandb")


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serve() as running:
        yield running


def environment(server: WandbServer) -> dict[str, str]:
    return {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.address}


def summary_of(folder: Path) -> dict[str, Any]:
    """What W&B's own viewer reads."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_all_jobs_and_their_evaluations_lie_in_one_folder_under_names_of_what_differs(sweep: Path) -> None:
    folders = sorted((sweep / "tracking" / "wandb").glob("offline-run-*"))
    shown = [summary_of(folder) for folder in folders]
    assert [each["name"] for each in shown] == ["0: balance=none", "1: oversample", "test of 1: oversample"]
    assert [each["config"]["class_weighting"] for each in shown] == ["none", "oversample", "oversample"]
    assert [each["notes"] for each in shown] == ["two ways", "two ways", ""]
    assert all(each["summary"]["status"] == "finished" and each["state"] == "finished" for each in shown)
    runs = find_offline_runs([sweep])
    assert [run.job_type for run in runs] == ["train", "train", "evaluate"]
    assert [run.path for run in runs] == folders
    for job in ("0", "1"):
        history = pd.read_csv(sweep / job / "history.csv")
        assert shown[int(job)]["summary"]["best/val/auroc"] == pytest.approx(history["val/auroc"].max())
        assert shown[int(job)]["summary"]["best/epoch"] == history["val/auroc"].idxmax()
        assert not list((sweep / job).rglob("*.wandb"))


def test_an_evaluation_names_the_training_and_its_weights(sweep: Path) -> None:
    trained, evaluation = recall(RunDirectory(sweep / "1")), find_offline_runs([sweep])[-1]
    assert trained is not None
    assert evaluation.config["trained_run"] == trained.id
    assert evaluation.config["model_artifact"] == f"model-{trained.id}:best"
    weights = next(run for run in find_offline_runs([sweep]) if run.id == trained.id)
    assert {f"model-{trained.id}:best", f"model-{trained.id}:latest"} <= set(weights.artifacts)


def test_the_list_needs_neither_key_nor_network(sweep: Path, tmp_path: Path) -> None:
    done = call("-m", "cxr.sync", str(sweep), "--list", cwd=tmp_path, WANDB_BASE_URL="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "To be sent: 3 of 3" in done.stdout
    for name in ("0: balance=none", "1: oversample", "test of 1: oversample"):
        assert name in done.stdout


def test_without_a_key_or_a_server_one_line_says_so(sweep: Path, tmp_path: Path) -> None:
    done = call("-m", "cxr.sync", str(sweep), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert all(word in done.stderr for word in ("WANDB_API_KEY", "wandb leet"))
    away = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:1"}
    done = call("-m", "cxr.sync", str(sweep), cwd=tmp_path, **away)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "http://127.0.0.1:1 cannot be reached" in done.stderr
    done = call("-m", "cxr.sync", str(tmp_path), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_a_whole_sweep_is_sent_once_with_its_artifacts_and_without_a_patient(
    copied: Path, tmp_path: Path, server: WandbServer
) -> None:
    done = call("-m", "cxr.sync", str(copied), cwd=tmp_path, **environment(server))
    assert done.returncode == 0, done.stderr
    assert "Sent 3, skipped 0 (sent before), failed 0." in done.stdout
    names = {call["displayName"] for call in server.of("UpsertBucket")} - {None}
    assert names == {"0: balance=none", "1: oversample", "test of 1: oversample"}
    groups = {call["groupName"] for call in server.of("UpsertBucket")} - {None}
    assert groups == {f"demo/{copied.name}"}

    for job in ("0", "1"):
        tracked = recall(RunDirectory(copied / job))
        assert tracked is not None
        weights = safetensors.torch.load(server.uploads[f"model-{tracked.id}/weights.safetensors"])
        about = json.loads(server.uploads[f"model-{tracked.id}/model.json"])
        assert about["class_names"] == ["covid", "other"]
        assert about["backbone"] == "resnet10t"
        assert weights["fc.weight"].shape[0] == 2
        records = pd.read_csv(copied / job / "split.csv", dtype=str)
        key = bytes.fromhex((copied / "tracking" / "split_key").read_text().strip())
        assert server.uploads[f"split-{tracked.id}/split.csv"].decode() == hashed_split(records, key).to_csv(
            index=False
        )

    (used,) = server.of("UseArtifact")
    assert used["artifactID"] == f"model-{tracked.id}"
    assert used["runName"] == find_offline_runs([copied])[-1].id

    everything = b"\n".join(server.everything)
    records = pd.read_csv(copied / "0" / "split.csv", dtype=str)
    secret = {key, key.hex().encode(), str(copied).encode(), str(ROOT).encode(), socket.gethostname().encode()}
    for column in ("image", "patient", "sha256"):
        secret |= {str(value).encode() for value in records[column]}
    assert not [each for each in secret if each in everything]

    again = call("-m", "cxr.sync", str(copied), cwd=tmp_path, **environment(server))
    assert again.returncode == 0, again.stderr
    assert "Sent 0, skipped 3 (sent before), failed 0." in again.stdout


def test_weights_that_are_gone_are_not_sent_as_if_they_were_there(
    copied: Path, tmp_path: Path, server: WandbServer
) -> None:
    moved = tmp_path / "models"
    shutil.move(copied / "tracking" / "models", moved)
    try:
        done = call("-m", "cxr.sync", str(copied), cwd=tmp_path, **environment(server))
    finally:
        shutil.move(moved, copied / "tracking" / "models")
    assert done.returncode == 1
    assert "Sent 1, skipped 0 (sent before), failed 2." in done.stdout
    assert "2 files of its artifacts are gone" in done.stderr


def test_the_weights_of_the_artifact_start_a_training(sweep: Path, tmp_path: Path) -> None:
    (weights, *_) = sorted((sweep / "tracking" / "models").rglob("weights.safetensors"))
    words = [word for word in SWEEP if not word.startswith(("balance", "logger"))]
    done = call(str(ROOT / "train.py"), *words, f"model.weights={weights}", "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "demo").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["weights"] == str(weights)


def test_every_key_of_the_dashboard_is_logged_by_a_real_run(sweep: Path, tmp_path: Path) -> None:
    done = call("-m", "cxr.dashboard", "project=cxr", "--output", "board.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = [summary_of(folder) for folder in (sweep / "tracking" / "wandb").glob("offline-run-*")]
    config = set().union(*(flat(each["config"]) for each in shown))
    logged = set().union(*(each["summary"] for each in shown))

    asked: set[tuple[str, str]] = set()

    def walk(node: Any, name: str = "") -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, key)
        elif isinstance(node, list):
            for value in node:
                walk(value, name)
        elif name in ("xAxis", "yAxis", "accessor") and str(node).startswith(("config:", "summary:")):
            kind, _, key = node.partition(":")
            asked.add((kind, key))
        elif name == "metrics" or (name == "xAxis" and node != "_step") or name == "targetKey":
            asked.add(("summary", node))
        elif name == "groupBy":
            asked.add(("config", node))

    board = json.loads((tmp_path / "board.json").read_text())
    walk(board["spec"]["section"]["panelBankConfig"]["sections"])
    for kind, key in asked:
        if kind == "config":  # W&B stores each setting below `value`
            first, _, rest = key.partition(".value")
            assert first + rest in config, key
        else:
            assert key in logged, key
    assert ("config", "optimizer.value.lr") in asked
    assert ("config", "data.value.image_size") in asked
    text = json.dumps(board)
    for table in ("subgroups", "predictions", "confusion_matrix_table", "reliability_table"):
        assert f"test/{table}" in text
        assert f"test/{table}" in logged


def test_the_dashboard_is_pushed_where_there_is_an_account(tmp_path: Path, server: WandbServer) -> None:
    done = call("-m", "cxr.dashboard", "project=chests", cwd=tmp_path, **environment(server))
    assert done.returncode == 0, done.stderr
    (sent,) = server.of("UpsertView2")
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == (ENTITY, "chests", "cxr")
    titles = [each["name"] for each in json.loads(sent["spec"])["section"]["panelBankConfig"]["sections"]]
    assert {"Calibration", "Subgroups", "Cost"} <= set(titles)
    done = call("-m", "cxr.dashboard", "project=chests", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
