"""A sweep under W&B, from real jobs to what a server receives: names, one folder, artifacts, lineage, no patient."""

from __future__ import annotations

import io
import json
import re
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
import torch
import wandb
from pytorch_lightning.loggers import WandbLogger
from tests.programs import run
from tests.wandb_server import ENTITY, WandbServer, serve

from cxr.dashboard import main as dashboard
from cxr.sync import main as sync
from cxr.training.artifacts import hashed_split, log_split, split_key
from cxr.training.backbones import create_backbone
from cxr.training.module import CXRModule
from cxr.training.offline_runs import OfflineRun, find_offline_runs
from cxr.training.run_directory import RunDirectory
from cxr.training.tracked_run import recall
from cxr.training.tracking import build_logger, finish

ROOT = Path(__file__).resolve().parents[1]
SWEEP = [
    "experiment=demo",
    "data.sources.phantom.num_patients=40",
    "data.sources.phantom.size=64",
    "data.look_for_copies=false",
    "audit.shortcuts=false",
    "data.image_size=32",
    "model.name=test_resnet",
    "trainer.max_epochs=1",
    "trainer.gpus=0",
    "trainer.log_every_n_steps=1",
    "logger.notes=two ways",
    "balance=none,oversample",
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs and an evaluation of the second."""
    folder = tmp_path_factory.mktemp("swept")
    done = run("train.py", "-m", *SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    (place,) = (folder / "outputs" / "demo").iterdir()
    quick = ["trainer.gpus=0", "saliency=0", "shortcuts=false", "num_resamples=100"]
    done = run("evaluate.py", f"run={place / '1'}", *quick, cwd=folder)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def moved(sweep: Path, tmp_path: Path) -> Path:
    """The sweep in another place; what is sent gets a mark there."""
    return Path(shutil.copytree(sweep, tmp_path / "moved" / sweep.name, symlinks=True))


@pytest.fixture
def server(no_wandb_account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server, and a key for it."""
    with serve() as running:
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", running.address)
        yield running


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


@pytest.fixture(scope="module")
def shown(sweep: Path) -> list[dict[str, Any]]:
    """What W&B's viewer shows of each run, in the order of their folders."""
    return [summary_of(folder) for folder in sorted((sweep / "tracking" / "wandb").glob("offline-run-*"))]


@pytest.fixture(scope="module")
def found(sweep: Path) -> list[OfflineRun]:
    """What cxr finds there."""
    return find_offline_runs([sweep])


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_all_jobs_and_their_evaluations_lie_in_one_folder_under_names_of_what_differs(
    sweep: Path, shown: list[dict[str, Any]], found: list[OfflineRun]
) -> None:
    assert [each["name"] for each in shown] == ["0: balance=none", "1: oversample", "test of 1: oversample"]
    assert [each["config"]["class_weighting"] for each in shown] == ["none", "oversample", "oversample"]
    assert [each["notes"] for each in shown] == ["two ways", "two ways", ""]
    assert all(each["summary"]["status"] == "finished" and each["state"] == "finished" for each in shown)
    assert [run.job_type for run in found] == ["train", "train", "evaluate"]
    assert [run.path for run in found] == sorted((sweep / "tracking" / "wandb").glob("offline-run-*"))
    for job in ("0", "1"):
        history = pd.read_csv(sweep / job / "history.csv")
        assert shown[int(job)]["summary"]["best/val/auroc"] == pytest.approx(history["val/auroc"].max())
        assert shown[int(job)]["summary"]["best/epoch"] == history["val/auroc"].idxmax()
        assert not list((sweep / job).rglob("*.wandb"))


def test_an_evaluation_names_the_training_and_its_weights(sweep: Path, found: list[OfflineRun]) -> None:
    trained, evaluation = recall(RunDirectory(sweep / "1")), found[-1]
    assert trained is not None
    assert evaluation.config["trained_run"] == trained.id
    assert evaluation.config["model_artifact"] == f"model-{trained.id}:best"
    weights = next(run for run in found if run.id == trained.id)
    assert {f"model-{trained.id}:best", f"model-{trained.id}:latest"} <= set(weights.artifacts)


def test_the_list_needs_neither_key_nor_network(sweep: Path, tmp_path: Path) -> None:
    done = run("-m", "cxr.sync", str(sweep), "--list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "To be sent: 3 of 3" in done.stdout
    for name in ("0: balance=none", "1: oversample", "test of 1: oversample"):
        assert name in done.stdout


@pytest.mark.usefixtures("no_wandb_account")
def test_without_a_key_or_a_server_one_line_says_so(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync([str(sweep)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert all(word in said for word in ("WANDB_API_KEY", "wandb leet"))
    assert sync([str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert dashboard(["project=chests"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    wandb.teardown()
    assert sync([str(sweep)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "http://127.0.0.1:1 cannot be reached" in said


def test_a_whole_sweep_is_sent_once_with_its_artifacts_and_without_a_patient(
    moved: Path,
    sweep: Path,
    found: list[OfflineRun],
    server: WandbServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # What W&B leaves of a run that is killed at once: the head of its file.
    (head,) = next((moved / "tracking" / "wandb").glob("offline-run-*")).glob("run-*.wandb")
    killed = moved / "tracking" / "wandb" / "offline-run-20260101_000000-killed00"
    killed.mkdir()
    (killed / "run-killed00.wandb").write_bytes(head.read_bytes()[:7])

    assert sync([str(moved)]) == 0
    said = capsys.readouterr()
    assert "Sent 3, skipped 0 (sent before), failed 0." in said.out
    assert f"nothing to send: {killed.name}" in said.err
    names = {call["displayName"] for call in server.of("UpsertBucket")} - {None}
    assert names == {"0: balance=none", "1: oversample", "test of 1: oversample"}
    groups = {call["groupName"] for call in server.of("UpsertBucket")} - {None}
    assert groups == {f"demo/{sweep.name}"}

    for job in ("0", "1"):
        tracked = recall(RunDirectory(moved / job))
        assert tracked is not None
        weights = safetensors.torch.load(server.uploads[f"model-{tracked.id}/weights.safetensors"])
        about = json.loads(server.uploads[f"model-{tracked.id}/model.json"])
        assert about["class_names"] == ["covid", "other"]
        assert about["backbone"] == "test_resnet"
        assert weights["fc.weight"].shape[0] == 2
        records = pd.read_csv(moved / job / "split.csv", dtype=str)
        key = bytes.fromhex((moved / "tracking" / "split_key").read_text().strip())
        sent = pd.read_csv(io.BytesIO(server.uploads[f"split-{tracked.id}/split.csv"]), dtype=str)
        pd.testing.assert_frame_equal(sent, hashed_split(records, key), check_dtype=False)

    (used,) = server.of("UseArtifact")
    assert used["artifactID"] == f"model-{tracked.id}"
    assert used["runName"] == found[-1].id

    everything = b"\n".join(server.everything)
    records = pd.read_csv(moved / "0" / "split.csv", dtype=str)
    secret = {key, key.hex().encode(), *(str(place).encode() for place in (moved.parent, sweep.parents[2], ROOT))}
    for column in ("image", "patient", "sha256"):
        secret |= {str(value).encode() for value in records[column]}
    assert not [each for each in secret if each in everything]
    # A short name may stand in any digest, but not by itself.
    host = re.compile(rb"(?<![\w+/=-])" + re.escape(socket.gethostname().encode()) + rb"(?![\w+/=-])")
    assert not [text for text in server.everything if is_text(text) and host.search(text)]

    server.calls.clear()
    assert sync([str(moved)]) == 0
    assert "Sent 0, skipped 3 (sent before), failed 0." in capsys.readouterr().out
    assert not server.calls


def is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_a_run_that_is_online_sends_its_files_and_no_path(tmp_path: Path, server: WandbServer) -> None:
    wandb.teardown()
    records = pd.DataFrame({"sha256": ["a" * 64, "b" * 64], "split": ["train", "val"], "label": ["covid", "other"]})
    logger = build_logger("wandb", tracking_dir=tmp_path / "tracking", config={}, name="first", capture="code")
    assert isinstance(logger, WandbLogger)
    assert not logger.experiment.settings._offline
    log_split(logger, records, tmp_path / "tracking")
    logger.experiment.log({"test/subgroups": wandb.Table(columns=["sex"], data=[["F"]])})
    run_id = logger.experiment.id
    finish(logger, 0)
    key = split_key(tmp_path / "tracking")
    sent = pd.read_csv(io.BytesIO(server.uploads[f"split-{run_id}/split.csv"]), dtype=str)
    pd.testing.assert_frame_equal(sent, hashed_split(records, key), check_dtype=False)
    assert any(name.endswith("subgroups.table.json") for name in server.uploads)
    assert any(name.endswith("training/tracking.py") for name in server.uploads)
    everything = b"\n".join(server.everything)
    for place in (tmp_path, ROOT):
        found = everything.find(str(place).encode())
        assert found < 0, everything[max(0, found - 200) : found + 100]


def test_weights_that_are_gone_are_not_sent_as_if_they_were_there(
    moved: Path, server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    models = moved / "tracking" / "models"
    models.rename(moved / "models")
    assert sync([str(moved)]) == 1
    said = capsys.readouterr()
    assert "Sent 1, skipped 0 (sent before), failed 2." in said.out
    assert "2 files of its artifacts are gone" in said.err
    assert "no lineage yet: test of 1: oversample" in said.err
    assert not server.of("UseArtifact")

    (moved / "models").rename(models)
    assert sync([str(moved)]) == 0
    said = capsys.readouterr()
    assert "Sent 2, skipped 1 (sent before), failed 0." in said.out
    assert said.err == ""
    assert len(server.of("UseArtifact")) == 1


def test_artifacts_that_the_server_refuses_are_sent_the_next_time(
    moved: Path, server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    first = str(min((moved / "tracking" / "wandb").glob("offline-run-*")))
    server.refused = {"CreateArtifactManifest"}
    assert sync([first]) == 1
    assert "2 artifacts did not arrive" in capsys.readouterr().err
    server.refused = set()
    assert sync([first]) == 0
    assert "Sent 1, skipped 0 (sent before), failed 0." in capsys.readouterr().out
    assert any(name.endswith("weights.safetensors") for name in server.uploads)


def test_a_training_starts_from_the_weights_of_the_artifact(sweep: Path) -> None:
    tracked = recall(RunDirectory(sweep / "1"))
    assert tracked is not None
    (weights,) = (sweep / "tracking" / "models" / tracked.id).rglob("weights.safetensors")
    network = create_backbone("test_resnet", num_classes=2, image_size=32, pretrained=False, weights=weights).network
    trained = CXRModule.load_from_checkpoint(sweep / "1" / "checkpoints" / "best.ckpt").network
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=0, atol=0)


def test_every_key_of_the_dashboard_is_logged_by_a_real_run(shown: list[dict[str, Any]], tmp_path: Path) -> None:
    assert dashboard(["project=cxr", "--output", str(tmp_path / "board.json")]) == 0
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


def test_the_dashboard_is_pushed_where_there_is_an_account(server: WandbServer) -> None:
    assert dashboard(["project=chests"]) == 0
    (sent,) = server.of("UpsertView2")
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == (ENTITY, "chests", "cxr")
    titles = [each["name"] for each in json.loads(sent["spec"])["section"]["panelBankConfig"]["sections"]]
    assert {"Calibration", "Subgroups", "Cost"} <= set(titles)
