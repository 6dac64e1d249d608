"""Do the two programs do, as processes, what the README says?"""

from __future__ import annotations

import csv
import getpass
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from tests.programs import Ended, run, start

from cxr.evaluation.report.model_card import write_model_card
from cxr.evaluation.report.page import write_report
from cxr.training.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "experiment=demo",
    "data.sources.phantom.num_patients=40",
    "data.sources.phantom.size=64",
    "data.image_size=32",
    "model.name=test_resnet",
    "trainer.max_epochs=2",
    "trainer.gpus=0",
]


def the_run(folder: Path, name: str = "demo") -> Path:
    found = sorted((folder / "outputs" / name).iterdir())
    assert len(found) == 1, found
    return found[0]


def looks_at_test(folder: Path) -> int:
    return int((pd.read_csv(folder / "looks.csv")["split"] == "test").sum())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """One tiny run and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    done = run("train.py", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return the_run(folder), done


def test_a_run_keeps_what_is_needed_to_judge_and_repeat_it(
    trained: tuple[Path, Ended],
) -> None:
    folder, _ = trained
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    assert (folder / "checkpoints" / "best.ckpt").stat().st_size > 0
    assert (folder / "checkpoints" / "last.ckpt").stat().st_size > 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    history = pd.read_csv(folder / "history.csv")
    assert history["val/auroc"].notna().sum() == 2
    split = pd.read_csv(folder / "split.csv", dtype=str)
    assert set(split["split"]) == {"train", "val", "test"}
    assert (split.groupby("group")["split"].nunique() == 1).all(), "a patient stands on two sides"
    assert split["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert next(iter(csv.reader((folder / "dropped.csv").open()))) == ["source", "row", "image", "reason", "detail"]


def test_a_run_records_its_program_and_machine_and_not_whose_they_are(
    trained: tuple[Path, Ended], tmp_path: Path
) -> None:
    folder, _ = trained
    text = (folder / "environment.json").read_text()
    content = json.loads(text)
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["machine"]["cores"] == os.cpu_count()
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert content["git_commit"] == (head.stdout.strip() or None)
    words = set(re.findall(r"[\w.-]+", text))
    assert not {socket.gethostname(), getpass.getuser()} & words
    assert not re.search(r"[/\\]", text.replace("\\u", "")), "no path and no address"

    copied = RunDirectory(Path(shutil.copytree(folder, tmp_path / "copied")))
    shown = [write_report(copied).read_text(), write_model_card(copied).read_text()]
    for page in shown:
        assert content["machine"]["processor"] in html.unescape(page)
        assert f"{content['versions']['torch']} in training" in page
        assert (content["git_commit"] or "not recorded") in page


def test_training_ends_with_the_command_that_evaluates(
    trained: tuple[Path, Ended],
) -> None:
    folder, done = trained
    text = " ".join(done.stdout.split())
    assert "evaluate.py run=" in text
    assert folder.name in text
    assert "auroc" in text.lower()
    assert "kept" in text, "the accounting of the rows is printed"
    assert "test" not in json.loads((folder / "metrics.json").read_text()), "training does not open the test set"
    assert "test" not in set(pd.read_csv(folder / "looks.csv")["split"])


def test_an_offline_wandb_run_holds_the_best_values(trained: tuple[Path, Ended]) -> None:
    folder, done = trained
    offline = list(folder.rglob("offline-run-*/run-*.wandb"))
    assert len(offline) == 1
    assert "cxr.sync" in done.stdout + done.stderr
    shown = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(offline[0].parent)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    history = pd.read_csv(folder / "history.csv")
    assert "best/val/auroc" in shown.stdout
    assert f"{history['val/auroc'].max():.4f}"[:5] in shown.stdout


def test_evaluate_scores_the_test_split_and_records_the_look(trained: tuple[Path, Ended], tmp_path: Path) -> None:
    folder, _ = trained
    done = run("evaluate.py", f"run={folder}", "trainer.gpus=0", "saliency=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").is_file()
    metrics = json.loads((folder / "metrics.json").read_text())
    split = pd.read_csv(folder / "split.csv", dtype=str)
    predictions = pd.read_csv(folder / "predictions" / "test.csv", dtype={"patient": str})
    assert sorted(predictions["image"]) == sorted(split.loc[split["split"] == "test", "image"])
    assert predictions[["prob_covid", "prob_other"]].sum(axis=1).between(0.999, 1.001).all()
    accuracy = (predictions["label"] == predictions["predicted"]).mean()
    assert metrics["test"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert metrics["test"]["accuracy"]["n"] == len(predictions)
    majority = split.loc[split["split"] == "train", "label"].mode()[0]
    assert metrics["test"]["accuracy"]["baseline"] == pytest.approx((predictions["label"] == majority).mean())
    assert looks_at_test(folder) == 1
    assert any(path.name.startswith("test") for path in (folder / "figures").glob("*.png"))
    again = run(
        "evaluate.py", f"run={folder / 'checkpoints' / 'best.ckpt'}", "trainer.gpus=0", "saliency=0", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert looks_at_test(folder) == 2


def test_unlabelled_images_get_predictions_only(trained: tuple[Path, Ended], tmp_path: Path) -> None:
    folder, _ = trained
    split = pd.read_csv(folder / "split.csv", dtype=str)
    drawn = next((folder.parents[1] / "cache").glob("phantom-*"))
    flat = tmp_path / "images"
    flat.mkdir()
    for image in split["image"][:5]:
        (flat / Path(image).name).write_bytes((drawn / image).read_bytes())
    done = run(
        "evaluate.py", f"run={folder}", "data=class_folders", f"data.root={flat}", "trainer.gpus=0", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    tables = [pd.read_csv(path) for path in (folder / "predictions").glob("*.csv")]
    assert any(len(table) == 5 and "prob_covid" in table and "label" not in table.dropna(axis=1) for table in tables)


def test_classes_are_matched_by_name(trained: tuple[Path, Ended], tmp_path: Path) -> None:
    folder, _ = trained
    drawn = next((folder.parents[1] / "cache").glob("phantom-*"))
    picture = next(drawn.rglob("*.png")).read_bytes()
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "a.png").write_bytes(picture)
    done = run(
        "evaluate.py",
        f"run={folder}",
        "data=class_folders",
        f"data.root={tmp_path / 'pets'}",
        "trainer.gpus=0",
        cwd=tmp_path,
    )
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in ("cats", "dogs", "covid", "other"))


def test_a_run_repeated_from_its_directory_gives_the_same_numbers(trained: tuple[Path, Ended], tmp_path: Path) -> None:
    folder, _ = trained
    done = run("train.py", "--config-dir", str(folder), "--config-name", "config", "logger.name=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = the_run(tmp_path)
    first, second = pd.read_csv(folder / "history.csv"), pd.read_csv(again / "history.csv")
    logged = [name for name in first.columns if "/" in name and "time" not in name]
    pd.testing.assert_frame_equal(first[logged], second[logged], check_exact=True)


def test_the_recipe_of_the_original_work_keeps_its_last_weights_and_says_that_it_leaks(tmp_path: Path) -> None:
    small = [word for word in TINY if not word.startswith(("experiment=", "trainer.max_epochs="))]
    small += ["data.look_for_copies=false", "audit.shortcuts=false"]
    stages = "schedule.stages=[{epochs:2,freeze:body,lr:3e-3},{epochs:1,lr:0.3,spread:10,schedule:constant}]"
    done = run(
        "train.py", "experiment=original", "data=phantom", "model.pretrained=false", stages, *small, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    folder = the_run(tmp_path, "original")
    assert "LEAKS" in done.stdout
    assert "the last weights are kept" in " ".join(done.stdout.split())
    best = int(pd.read_csv(folder / "history.csv").set_index("epoch")["val/auroc"].idxmax())
    assert best != 2, "the last stage makes it worse, so that the two can be told apart"
    assert json.loads((folder / "metrics.json").read_text())["val"]["epoch"] == 2
    assert [path.name for path in folder.glob("**/models/*/*")] == ["epoch_2"], "the weights that go to W&B"
    for words, epoch in (([], 2), (["checkpoint=best"], best)):
        assert (
            run("evaluate.py", f"run={folder}", "saliency=0", "shortcuts=false", *words, cwd=tmp_path).returncode == 0
        )
        assert json.loads((folder / "metrics.json").read_text())["test"]["epoch"] == epoch


def test_a_gpu_that_is_not_there_is_no_silent_fallback(tmp_path: Path) -> None:
    done = run("train.py", *TINY, "trainer.gpus=1", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "trainer.gpus=1" in done.stderr
    assert "trainer.gpus=0" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_an_absent_collection_names_the_ways_out(tmp_path: Path) -> None:
    done = run("train.py", "data.download=false", "model.pretrained=false", "trainer.gpus=0", cwd=tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in ("data", "covid-chestxray-dataset", "https://", "experiment=demo"))
    assert json.loads((the_run(tmp_path, "default") / "status.json").read_text())["status"] == "failed"


def without_hub(cache: Path) -> None:
    """No weights lie here, and nobody answers where they are fetched from."""
    from huggingface_hub import constants

    constants.HF_HUB_CACHE = str(cache)
    constants.ENDPOINT = "http://127.0.0.1:9"
    constants.HUGGINGFACE_CO_URL_TEMPLATE = f"{constants.ENDPOINT}/{{repo_id}}/resolve/{{revision}}/{{filename}}"


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (["model.pretrained=true"], 2, "model.pretrained=true: the weights of test_resnet cannot be fetched"),
        (["model.weights=nosuch.safetensors"], 5, "model.weights=nosuch.safetensors: no such file"),
        (["model.name=resnet51"], 2, "model.name=resnet51"),
    ],
)
def test_a_network_that_is_not_to_be_had_is_refused_before_the_data_are_read(
    words: list[str], status: int, named: str, tmp_path: Path
) -> None:
    done = run("train.py", *TINY, *words, cwd=tmp_path, prepare=without_hub, given=(tmp_path / "hub",))
    assert done.returncode == status, done.said
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert named in line
    assert not list(tmp_path.glob("outputs/cache/*"))


@pytest.mark.parametrize(
    ("number", "status", "moment"),
    [
        (signal.SIGTERM, 143, "last.ckpt"),
        (signal.SIGINT, 130, "last.ckpt"),
        (signal.SIGTERM, 143, ".last.ckpt.*"),  # while it is written
    ],
)
def test_a_signal_ends_a_run_with_its_status(number: signal.Signals, status: int, moment: str, tmp_path: Path) -> None:
    quick = ["data.look_for_copies=false", "audit.shortcuts=false", "logger=none"]
    program = start("train.py", *TINY, *quick, "trainer.max_epochs=1000", cwd=tmp_path)
    program.wait_until(lambda: any(tmp_path.glob(f"outputs/demo/*/checkpoints/{moment}")))
    program.tell(number)
    assert program.wait(60) == status, program.said
    finished = the_run(tmp_path)
    content: dict[str, Any] = json.loads((finished / "status.json").read_text())
    assert content["status"] == "interrupted"
    assert content["exit_status"] == status
    names = {path.name for path in (finished / "checkpoints").iterdir()}
    assert names - {"last_previous.ckpt"} == {"best.ckpt", "last.ckpt"}, "no part of a file is left"
    assert torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] >= 0
