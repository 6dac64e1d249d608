"""Does a mistake on the command line end at once, in one line that shows the way out?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.programs import run

ROOT = Path(__file__).resolve().parents[1]


MISTAKES = [
    # words typed, what the line must name
    (["trainer.max_epoch=3"], ["trainer.max_epoch:", "trainer.max_epochs"]),
    (["+trainer.max_epoch=3"], ["trainer.max_epoch:", "trainer.max_epochs"]),
    (["trainer.max_epochs=abc"], ["trainer.max_epochs=abc", "int"]),
    (["optimizer.lr=-1"], ["optimizer.lr=-1", "above 0"]),
    (["optimizer.lr=nan"], ["optimizer.lr=nan", "finite"]),
    (["data=covid"], ["data=covid", "covid_chestxray", "phantom"]),
    (["lr=3"], ["lr:", "optimizer.lr"]),
    (["data.views=PA"], ["data.views", "[a,b]"]),
    (["optimizer.lr=1e-3,1e-4"], ["optimizer.lr=1e-3,1e-4", "-m"]),
    (["-m", "optimizer.lr=1e-3,-1"], ["optimizer.lr=-1", "above 0"]),
    (["seed=1,2", "-m", "optimizer.lr=1e-3,-1"], ["optimizer.lr=-1", "above 0"]),
    (["data=phantom", "data.sources.phantom.markr=1"], ["data.sources.phantom.markr", "marker"]),
    (["balance=oversample", "balance.weighting=effective_number"], ["balance.sampler", "balance.allow_both=true"]),
    (["balance=oversample", "loss=logit_adjusted"], ["loss.name=logit_adjusted", "balance.allow_both=true"]),
    (["model.pretrained=imagnet"], ["model.pretrained=imagnet", "true (or imagenet) or false"]),
    (["model.head=concat_pool", "model.drop_rate=0.1"], ["model.drop_rate=0.1", "concat_pool"]),
    (["balance=repeat", "data.batch_size=1"], ["data.batch_size=1", "balance.sampler=repeat"]),
    (["loss=focal", "loss.label_smoothing=0.1"], ["loss.label_smoothing=0.1", "focal"]),
    (["data=class_folders"], ["data.root"]),
    (["data=covid_vs_normal", "data.root=x"], ["data.root=x", "data.sources"]),
    (["data.split.kind=kfold", "data.split.fold=5"], ["data.split.fold=5", "num_folds=5"]),
    (["data.split.val_fraction=.6", "data.split.test_fraction=.5"], ["val_fraction=0.6", "test_fraction=0.5"]),
    (["data.split.kind=file"], ["data.split.path"]),
    (["data.split.kind=leave_one_out"], ["data.split.value"]),
    (["data.split.value=Spain"], ["data.split.value=Spain", "data.split.kind=leave_one_out"]),
    (["data.split.kind=random_image", "data.split.unit=patient"], ["data.split.unit=patient", "random_image"]),
    (["data.split.unit=person"], ["data.split.unit=person", "group", "patient", "image"]),
    (["data.positive=flu"], ["data.positive=flu", "covid"]),
    (["trainer.gpus=0", "trainer.precision=16-mixed"], ["trainer.precision=16-mixed", "32-true"]),
    (["name=../elsewhere"], ["name=../elsewhere"]),
    (["trainer"], ["trainer", "key=value"]),
    (["--frobnicate"], ["--frobnicate", "--help"]),
    (["--config-name", "nosuch"], ["nosuch"]),
    (["-m", "trainer.strategy=ddp", "seed=1,2", "hydra/launcher=basic"], ["trainer.strategy=ddp", "hydra/launcher"]),
    (["-m", "seed=1,2", "hydra/launcher=slurm", "hydra.launcher.timeout_min=0"], ["hydra.launcher.timeout_min=0"]),
    (["-m", "seed=1,2", "hydra/launcher=basic", "sweep.name=a"], ["sweep.name=a", "hydra/launcher=process"]),
    (["-m", "seed=1,2", "hydra.launcher.n_jobs=0"], ["hydra.launcher.n_jobs=0", "at least 1"]),
    (["sweep.name=a"], ["sweep.name=a", "-m"]),
    (["-m", "seed=1", "sweep.name=../a"], ["sweep.name=../a"]),
    (["-m", "seed=1", "sweep.resume=nosuch"], ["sweep.resume=nosuch"]),
    (["-m", "sweep.resume=nosuch"], ["sweep.resume=nosuch", "multirun.yaml"]),
    (["resume=nosuch"], ["resume=nosuch", "config.yaml"]),
    (["-m", "resume=nosuch", "seed=1,2"], ["resume=nosuch", "sweep.resume"]),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(words: list[str], named: list[str], tmp_path: Path) -> None:
    done = run("train.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert all(name in lines[0] for name in named), lines[0]
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], ["run"]),
        (["run=x", "splt=val"], ["splt", "split"]),
        (["run=x", "split=holdout"], ["split=holdout", "test"]),
        (["run=x", "auroc_interval=delng"], ["auroc_interval=delng", "delong"]),
        (["run=x", "tracking=none", "tracking_thumbnails=true"], ["tracking_thumbnails=true", "tracking=none"]),
        (["run=x", "data=phantom", "data.image_size=64"], ["data.image_size=64", "checkpoint"]),
        (["-m", "run=x", "split=val,test", "hydra/launcher=process"], ["hydra/launcher=process"]),
        (["-m", "run=x", "split=val,test", "hydra/launcher=slurm"], ["hydra/launcher=slurm"]),
    ],
)
def test_evaluate_names_the_mistake(words: list[str], named: list[str], tmp_path: Path) -> None:
    done = run("evaluate.py", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(name in done.stderr for name in named), done.stderr


@pytest.mark.parametrize(
    ("words", "named", "status"),
    [
        ([], ["run"], 2),
        (["run=x", "formats=[onx]"], ["formats=onx", "onnx"], 2),
        (["run=x", "formats=[]"], ["formats=[]", "safetensors, onnx"], 2),
        (["run=x", "calibration=isotonic"], ["calibration=isotonic", "formats=[safetensors]"], 2),
        (["run=x", "operating_points=[best]"], ["operating_points=best", "youden"], 2),
        (["run=x", "opset=9"], ["opset=9", "at least 18"], 2),
        (["run=nosuch"], ["nosuch", "best.ckpt"], 5),
    ],
)
def test_export_names_the_mistake(words: list[str], named: list[str], status: int, tmp_path: Path) -> None:
    done = run("-m", "cxr.export", *words, cwd=tmp_path)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(name in done.stderr for name in named), done.stderr
    assert not list(tmp_path.iterdir())


def test_torch_is_not_imported_for_a_mistake_or_for_help(tmp_path: Path) -> None:
    for words in (["--help"], ["trainer.max_epochs=abc"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        modules = {
            line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")
        }
        assert "hydra" in modules
        assert not modules & {"torch", "pytorch_lightning", "timm", "wandb", "pandas", "matplotlib"}


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_help_explains_every_key(program: str, tmp_path: Path) -> None:
    from cxr.config import SCHEMAS, keys

    done = run(f"{program}.py", "--help", cwd=tmp_path)
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for key in keys(SCHEMAS[program]):
        assert f"{key.name} " in text or f"{key.name}:" in text, key.name
        assert key.metadata["meaning"] in text, key.name


def test_hydra_full_error_brings_the_traceback_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "optimizer.lr=-1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HYDRA_FULL_ERROR": "1", "PATH": ""},
        timeout=60,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
