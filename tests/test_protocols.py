"""Does python -m cxr.protocols train, pool and compare, as processes?  And does it end as the other programs do?"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "experiment=demo",
    "data.sources.phantom.num_patients=44",
    "data.sources.phantom.prevalence=0.5",
    "data.sources.phantom.size=64",
    "data.image_size=32",
    "data.look_for_copies=false",
    "model.name=resnet10t",
    "trainer.max_epochs=1",
    "audit.shortcuts=false",
    "logger=none",
    "protocols.num_folds=2",
]
HEAVY = {"torch", "pytorch_lightning", "timm", "wandb", "pandas", "matplotlib"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cxr.protocols", *words]


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "CXR_"))}


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, cwd=cwd, env=clean(), timeout=280)


def the_folder(cwd: Path) -> Path:
    (folder,) = (cwd / "outputs" / "protocols" / "demo").iterdir()
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of one call, and what it printed."""
    cwd = tmp_path_factory.mktemp("protocols")
    ended = run(*TINY, "protocols.run=[random_image,group,source]", cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return the_folder(cwd), ended


def test_every_protocol_stands_in_one_table(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, ended = done
    table = pd.read_csv(folder / "protocols.csv").set_index("protocol")
    assert table.index.tolist() == ["random_image", "group", "source"]
    for name in ("random_image", "group"):
        assert table.loc[name, "networks"] == 2
        assert 0 <= table.loc[name, "auroc_low"] <= table.loc[name, "auroc"] <= table.loc[name, "auroc_high"] <= 1
    assert table.loc["random_image", "images"] == table.loc["group", "images"]
    difference = table.loc["random_image", "auroc"] - table.loc["group", "auroc"]
    assert table.loc["random_image", "optimism_auroc"] == pytest.approx(difference)
    assert table.loc["random_image", "optimism_auroc_low"] < table.loc["random_image", "optimism_auroc_high"]
    assert table.loc["random_image", "patients_on_two_sides"] > 0
    assert table.loc["group", "patients_on_two_sides"] == 0
    assert "all records are of one source, phantom" in table.loc["source", "reason"]
    said = " ".join(ended.stdout.split())
    assert said.count("all records are of one source, phantom") == 2, "before the training and after it"
    assert (folder / "protocols.png").stat().st_size > 0
    page = (folder / "protocols.html").read_text(encoding="utf-8")
    assert "all records are of one source, phantom" in page
    assert "<script" not in page


def test_all_images_are_scored_by_networks_that_had_not_seen_them(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = done
    tested = {}
    for name in ("random_image", "group"):
        scored = pd.read_csv(folder / name / "pooled" / "predictions" / "test.csv")
        splits = [pd.read_csv(path) for path in sorted((folder / name / "sweep_1").glob("*/split.csv"))]
        assert len(splits) == 2
        held = pd.concat([split.loc[split["split"] == "test", "image"] for split in splits])
        assert sorted(held) == sorted(scored["image"]) == sorted(splits[0]["image"])
        tested[name] = sorted(scored["image"])
    assert tested["random_image"] == tested["group"]


def test_the_printed_sweep_can_be_typed(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, ended = done
    lines = [line.strip() for line in ended.stdout.splitlines() if line.strip().startswith("python ")]
    assert [re.search(r"(\w+)\.py", line)[1] for line in lines] == ["train", "evaluate"] * 2  # type: ignore[index]
    program, *words = shlex.split(lines[0])[1:]
    assert "data.split.unit=image" in words
    assert "data.split.fold=0,1" in words
    single = [word.replace("fold=0,1", "fold=1") for word in words if word != "-m"]
    cwd = folder.parents[3]
    shown = subprocess.run(
        [sys.executable, program, *single, "--cfg", "job"], capture_output=True, text=True, cwd=cwd, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert "unit: image" in shown.stdout


def test_taken_up_again_only_what_is_missing_is_trained(
    done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = done
    shutil.copytree(folder.parents[3], tmp_path, dirs_exist_ok=True)
    again = the_folder(tmp_path)
    lost = again / "group" / "sweep_1" / "1"
    status = json.loads((lost / "status.json").read_text())
    (lost / "status.json").write_text(json.dumps({**status, "status": "interrupted"}))
    words = [*TINY, "protocols.run=[random_image,group]", f"protocols.resume={os.path.relpath(again, tmp_path)}"]
    ended = run(*words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = [line.strip() for line in ended.stdout.splitlines() if line.strip().startswith("python ")]
    assert len(lines) == 2, "one sweep of one fold, and its evaluation"
    assert "data.split.fold=1 " in lines[0]
    assert [path.name for path in (again / "group" / "sweep_2").iterdir() if path.is_dir()] == ["0"]
    before, after = (pd.read_csv(path / "protocols.csv").set_index("protocol") for path in (folder, again))
    # The same seed and the same fold: the network is the same again.
    assert after.loc["group", "auroc"] == pytest.approx(before.loc["group", "auroc"], abs=1e-6)

    other = run(*words, "optimizer.lr=0.5", cwd=tmp_path)
    assert other.returncode == 2
    assert "optimizer.lr" in other.stderr
    assert len(other.stderr.splitlines()) == 1


def test_failed_trainings_are_named_and_end_with_status_1(tmp_path: Path) -> None:
    ended = run(*TINY, "protocols.run=[group,source]", "model.name=resnet10tt", cwd=tmp_path)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: 2 of the trainings and evaluations failed: group of patients, fold 0: ")
    assert "resnet10tt" in last
    assert "protocols.resume=outputs/protocols/demo/" in last
    table = pd.read_csv(the_folder(tmp_path) / "protocols.csv").set_index("protocol")
    assert table.loc["group", "reason"] == "2 of 2 trainings failed"


def test_a_signal_ends_the_training_too(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*TINY, "protocols.run=[group,source]", "trainer.max_epochs=1000"),
        cwd=tmp_path,
        env=clean(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    pattern = "outputs/protocols/demo/*/group/sweep_1/0"
    while not list(tmp_path.glob(f"{pattern}/checkpoints/last.ckpt")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    (trained,) = tmp_path.glob(f"{pattern}/status.json")
    content = json.loads(trained.read_text())
    assert (content["status"], content["exit_status"]) == ("interrupted", 130)
    with pytest.raises(ProcessLookupError):
        os.kill(content["process"], 0)


MISTAKES = [
    # words typed, what the line must name
    (["protocols.run=[group,contry]"], ["protocols.run=contry", "country"]),
    (["protocols.run=[source,country]"], ["protocols.run=[source,country]", "group"]),
    (["protocols.num_folds=1"], ["protocols.num_folds=1", "at least 2"]),
    (["protocols.folds=3"], ["protocols.folds", "protocols.num_folds"]),
    (["data.split.kind=holdout"], ["data.split.kind=holdout", "each protocol sets it"]),
    (["optimizer.lr=1e-3,1e-4"], ["optimizer.lr=1e-3,1e-4", "one configuration"]),
    (["-m"], ["--multirun"]),
    (["trainer.max_epoch=3"], ["trainer.max_epoch", "trainer.max_epochs"]),
    (["trainer.strategy=ddp"], ["trainer.strategy=ddp"]),
    (["protocols.resume=nowhere"], ["protocols.resume=nowhere"]),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(words: list[str], named: list[str], tmp_path: Path) -> None:
    ended = run(*words, *TINY, cwd=tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert all(name in ended.stderr for name in named), ended.stderr
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def test_help_and_mistakes_import_nothing_heavy(tmp_path: Path) -> None:
    for words, status in ((["--help"], 0), (["protocols.num_folds=0"], 2)):
        ended = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "cxr.protocols", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        assert ended.returncode == status
        imported = {line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines() if "import time" in line}
        assert "hydra" in imported
        assert not imported & HEAVY
        if status == 0:
            assert all(key in ended.stdout for key in ("protocols.run", "protocols.resume", "trainer.max_epochs"))
