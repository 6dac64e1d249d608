"""Does python -m cxr.protocols train, pool and compare, as processes?  And does it end as the other programs do?"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests import programs
from tests.programs import Ended

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "experiment=demo",
    "data.sources.phantom.num_patients=44",
    "data.sources.phantom.prevalence=0.5",
    "data.sources.phantom.size=64",
    "data.image_size=32",
    "data.look_for_copies=false",
    "model.name=test_resnet",
    "trainer.max_epochs=2",
    "audit.shortcuts=false",
    "logger=none",
    "protocols.num_folds=2",
]
HEAVY = {"torch", "pytorch_lightning", "timm", "wandb", "pandas", "matplotlib"}


def run(*words: str, cwd: Path) -> Ended:
    return programs.run("-m", "cxr.protocols", *words, cwd=cwd)


def commands(text: str) -> list[str]:
    """Those that were printed."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("python ")]


def finished(path: Path) -> bool:
    """Whether the run that a file belongs to was trained to the end."""
    return bool(json.loads((path.parent / "status.json").read_text())["status"] == "finished")


def the_folder(cwd: Path) -> Path:
    (folder,) = (cwd / "outputs" / "protocols" / "demo").iterdir()
    return folder


@dataclass(frozen=True)
class Done:
    """A call that was interrupted in its second training, and taken up again.

    Attributes:
        folder: of both calls.
        interrupted: the exit status of the first.
        before: network's folder -> what its status.json said after the first.
        ended: the second.
    """

    folder: Path
    interrupted: int
    before: dict[str, dict[str, Any]]
    ended: Ended


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    cwd = tmp_path_factory.mktemp("protocols")
    words = [*TINY, "protocols.run=[random_image,group,source]"]
    program = programs.start("-m", "cxr.protocols", *words, cwd=cwd)
    second = "outputs/protocols/demo/*/random_image/sweep_1/1/config.yaml"
    program.wait_until(lambda: bool(list(cwd.glob(second))))
    program.tell(signal.SIGINT)
    interrupted = program.ended()
    folder = the_folder(cwd)
    before = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("random_image/sweep_1/*/status.json")
    }
    assert before, interrupted.said
    ended = run(*words, f"protocols.resume={os.path.relpath(folder, cwd)}", cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return Done(folder, interrupted.returncode, before, ended)


def test_a_signal_ends_the_training_too(done: Done) -> None:
    assert done.interrupted == 130
    assert {number: (said["status"], said["exit_status"]) for number, said in done.before.items()} == {
        "0": ("finished", 0),
        "1": ("interrupted", 130),
    }
    with pytest.raises(ProcessLookupError):
        os.kill(done.before["1"]["process"], 0)


def test_taken_up_again_what_is_finished_is_not_trained_again(done: Done) -> None:
    lines = commands(done.ended.stdout)
    assert [re.search(r"(\w+)\.py", line)[1] for line in lines] == ["train", "evaluate"] * 2  # type: ignore[index]
    assert "data.split.unit=image" in lines[0]
    assert "data.split.fold=1 " in lines[0]
    assert "data.split.fold=0,1 " in lines[2]
    assert [path.parent.name for path in (done.folder / "random_image" / "sweep_2").glob("*/status.json")] == ["0"]
    page = (done.folder / "protocols.html").read_text(encoding="utf-8")
    assert page.count("train.py -m") == 3, "also the sweep of the first call"


def test_another_configuration_is_not_taken_up_again(done: Done) -> None:
    cwd = done.folder.parents[3]
    words = [*TINY, "optimizer.lr=0.5", f"protocols.resume={os.path.relpath(done.folder, cwd)}"]
    ended = run(*words, cwd=cwd)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "optimizer.lr (0.001, not 0.5)" in ended.stderr


def test_every_protocol_stands_in_one_table(done: Done) -> None:
    folder, ended = done.folder, done.ended
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


def test_all_images_are_scored_by_networks_that_had_not_seen_them(done: Done) -> None:
    folder = done.folder
    tested = {}
    for name in ("random_image", "group"):
        scored = pd.read_csv(folder / name / "pooled" / "predictions" / "test.csv")
        splits = [pd.read_csv(path) for path in sorted((folder / name).glob("sweep_*/*/split.csv")) if finished(path)]
        assert len(splits) == 2
        held = pd.concat([split.loc[split["split"] == "test", "image"] for split in splits])
        assert sorted(held) == sorted(scored["image"]) == sorted(splits[0]["image"])
        tested[name] = sorted(scored["image"])
    assert tested["random_image"] == tested["group"]


def test_the_printed_sweep_can_be_typed(done: Done) -> None:
    folder, ended = done.folder, done.ended
    program, *words = shlex.split(commands(ended.stdout)[2])[1:]
    single = [word.replace("fold=0,1", "fold=1") for word in words if word != "-m"]
    cwd = folder.parents[3]
    shown = programs.run(str(cwd / program), *single, "--cfg", "job", cwd=cwd)
    assert shown.returncode == 0, shown.stderr
    assert "kind: kfold" in shown.stdout
    assert "fold: 1" in shown.stdout


def test_failed_trainings_are_named_and_end_with_status_1(tmp_path: Path) -> None:
    ended = run(*TINY, "protocols.run=[group,source]", "model.name=resnet10tt", cwd=tmp_path)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: 2 of the trainings and evaluations failed: group of patients, fold 0: ")
    assert "resnet10tt" in last
    assert "protocols.resume=outputs/protocols/demo/" in last
    table = pd.read_csv(the_folder(tmp_path) / "protocols.csv").set_index("protocol")
    assert table.loc["group", "reason"] == "2 of 2 trainings failed"


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
