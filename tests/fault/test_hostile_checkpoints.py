"""Does a stranger's checkpoint run none of its code, take no memory, and end in one line, at whichever door?"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from tests.fault.hostile_checkpoints import BOMBS, CODE, SETTINGS, TENSORS, Content, Hostile
from tests.fault.small_runs import PLAIN
from tests.programs import run as run_program

from cxr.errors import CheckpointError
from cxr.evaluation.export.opening import open_network
from cxr.evaluation.export.writing import export_run
from cxr.evaluation.scoring.checkpoint import open_run
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.backbones import create_backbone
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer

pytestmark = pytest.mark.fault
ADDRESSES = [
    "http://example.org/best.ckpt",
    "https://example.org/best.ckpt",
    "s3://bucket/best.ckpt",
    "gs://bucket/best.ckpt",
    "file:///tmp/best.ckpt",
    "hf-hub://user/model",
]
TINY = [*PLAIN, "trainer.max_epochs=2", "logger=none"]


@pytest.fixture(autouse=True)
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable by which a careless environment switches torch's protection off."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small network."""
    root = tmp_path_factory.mktemp("good")
    data = CXRDataModule(
        {"phantom": {"kind": "phantom", "num_patients": 40, "size": 64}},
        data_dir=root,
        cache_dir=root / "cache",
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        positive="covid",
        image_size=32,
        look_for_copies=False,
        progress=False,
    )
    data.setup()
    module = CXRModule(
        "test_resnet",
        class_names=data.class_names,
        positive="covid",
        image_size=32,
        pretrained=False,
        loss={"gamma": 2.0},
    )
    run = RunDirectory.create(root / "runs", "demo")
    build_trainer(run_dir=run, max_epochs=1, gpus=0, progress=False).fit(module, data)
    return run.best_checkpoint_path


@pytest.fixture
def content(good: Path) -> Content:
    loaded: Content = torch.load(good, weights_only=True)
    return loaded


def refused(act: Callable[[], object], victim: Path | None = None) -> str:
    """What is said, in one line and with the status of a checkpoint; nothing of the file has run."""
    with pytest.raises(CheckpointError) as caught:
        act()
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 600
    assert victim is None or not victim.exists()
    return said


def name_of(case: Hostile) -> str:
    return case.name


def test_the_good_one_opens_at_every_door(good: Path) -> None:
    assert open_run(good).module.class_names == ["covid", "other"]
    data = open_run(good).datamodule(progress=False)
    data.setup("test")
    assert set(data.records["split"]) == {"train", "val", "test"}
    assert create_backbone("test_resnet", num_classes=2, image_size=32, weights=good).loaded is not None


@pytest.mark.parametrize("case", [*CODE, *SETTINGS, *TENSORS, *BOMBS], ids=name_of)
def test_a_hostile_checkpoint_is_not_opened(case: Hostile, content: Content, tmp_path: Path) -> None:
    path, victim = tmp_path / "best.ckpt", tmp_path / "victim"
    case.write(content, path, victim)
    said = refused(lambda: open_network(path), victim)
    assert "best.ckpt" in said


@pytest.mark.parametrize("case", [CODE[1], CODE[4], *TENSORS[4:10], *BOMBS], ids=name_of)
def test_a_hostile_file_is_not_taken_as_weights(case: Hostile, content: Content, tmp_path: Path) -> None:
    path, victim = tmp_path / "weights.pth", tmp_path / "victim"
    case.write(content, path, victim)
    said = refused(lambda: create_backbone("test_resnet", num_classes=2, image_size=32, weights=path), victim)
    assert "weights.pth" in said


@pytest.mark.parametrize("case", [CODE[1], CODE[4], SETTINGS[0], TENSORS[7], BOMBS[2]], ids=name_of)
def test_a_hostile_checkpoint_is_not_exported(case: Hostile, content: Content, tmp_path: Path) -> None:
    path, victim = tmp_path / "best.ckpt", tmp_path / "victim"
    case.write(content, path, victim)
    refused(lambda: export_run(path, output_dir=tmp_path / "out", formats=["safetensors"], progress=False), victim)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_safetensors_are_looked_at_too(value: float, content: Content, tmp_path: Path) -> None:
    tensors = {name.removeprefix("network."): each.contiguous() for name, each in content["state_dict"].items()
               if name.startswith("network.")}  # fmt: skip
    tensors[next(iter(tensors))] = torch.full_like(tensors[next(iter(tensors))], value)
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    path = tmp_path / "weights.safetensors"
    assert "not finite" in refused(lambda: create_backbone("test_resnet", num_classes=2, weights=path))


def test_what_a_checkpoint_would_fetch_or_open_is_left_alone(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content["hyper_parameters"].update(pretrained=True, weights=str(tmp_path / "fifo"))
    os.mkfifo(tmp_path / "fifo")  # opened, it would never be read
    content["datamodule_hyper_parameters"]["sources"]["other"] = {
        "kind": "covid_chestxray",
        "root": str(tmp_path / "fetched"),
        "address": "http://127.0.0.1:9/evil.zip",
    }
    content["datamodule_hyper_parameters"]["num_workers"] = 10**6
    torch.save(content, tmp_path / "best.ckpt")
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    data = open_run(tmp_path / "best.ckpt").datamodule(progress=False)
    assert "127.0.0.1:9" not in str(data.hparams["sources"])
    assert data.hparams["num_workers"] <= (os.cpu_count() or 1)
    assert asked == []


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_refused_at_every_door(address: str) -> None:
    for act in (
        lambda: open_network(address),
        lambda: export_run(address),
        lambda: create_backbone("test_resnet", num_classes=2, weights=address),
    ):
        said = refused(act)
        assert address in said
        assert "is an address" in said


KINDS = ["pipe", "folder", "socket", "device", "link to a pipe", "link to itself", "link to nowhere"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["given", "of a run"])
def test_what_is_no_file_is_refused_and_never_waited_for(
    kind: str, place: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(good.parents[1], tmp_path / "run"))
    path = run / "checkpoints" / "best.ckpt"
    path.unlink()
    (run / "checkpoints" / "last.ckpt").unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # its name may not be long
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("best.ckpt")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    else:
        path.symlink_to("best.ckpt" if kind == "link to itself" else "nowhere")
    refused(lambda: open_network(path if place == "given" else run))
    refused(lambda: create_backbone("test_resnet", num_classes=2, weights=path if place == "given" else run))


def test_a_link_to_a_good_file_is_followed(good: Path, tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").symlink_to(good)
    assert open_network(tmp_path / "best.ckpt").epoch == 0


MEASURED = """
import resource, sys
from pathlib import Path
import torch
from cxr.errors import CheckpointError
from cxr.evaluation.export.opening import open_network
from cxr.training.backbones import create_backbone
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
good, *bombs = sys.argv[1:]
open_network(good)
before = peak()
for path in bombs:
    for act in (lambda: open_network(path), lambda: create_backbone("test_resnet", num_classes=2, weights=path)):
        try:
            act()
        except CheckpointError:
            print(peak() - before, path, flush=True)
"""


def test_a_bomb_takes_no_memory(good: Path, tmp_path: Path) -> None:
    bombs = []
    for number, case in enumerate(BOMBS):
        bombs.append(str(tmp_path / f"{number}.ckpt"))
        case.write(torch.load(good, weights_only=True), Path(bombs[-1]), tmp_path / "victim")
    script = tmp_path / "measured.py"
    script.write_text(MEASURED, encoding="utf-8")
    done = run_program(str(script), str(good), *bombs, cwd=tmp_path)
    assert done.returncode == 0, done.said
    measured = [int(line.split()[0]) for line in done.said.splitlines() if line.endswith(".ckpt")]
    assert len(measured) == 2 * len(bombs)
    assert max(measured) < 100, f"MiB above the start: {measured}"


# ------------------------------------------------------------------------------------------ a run that is to go on


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a checkpoint and says that it was interrupted."""
    folder = tmp_path_factory.mktemp("stopped")
    done = run_program("train.py", *TINY, cwd=folder)
    assert done.returncode == 0, done.said
    (place,) = (folder / "outputs" / "demo").iterdir()
    RunDirectory(place).write_status("interrupted", reason="stopped", exit_status=143)
    return place


@pytest.fixture
def resumed(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "outputs" / "demo" / "run"))


@pytest.mark.parametrize("case", [CODE[1], TENSORS[3], TENSORS[7], BOMBS[2]], ids=name_of)
def test_a_run_does_not_go_on_from_a_hostile_checkpoint(case: Hostile, resumed: Path, tmp_path: Path) -> None:
    path, victim = resumed / "checkpoints" / "last.ckpt", tmp_path / "victim"
    case.write(torch.load(path, weights_only=True), path, victim)
    done = run_program("train.py", f"resume={resumed}", cwd=tmp_path, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert done.returncode == CheckpointError.exit_status, done.said
    said = [line for line in done.said.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "last.ckpt" in said[0]
    assert "Traceback" not in done.said
    assert not victim.exists()


def _hydra(victim: Path) -> dict[str, Any]:
    return {"callbacks": {"evil": {"_target_": "pathlib.Path.touch", "self": str(victim)}}}


def _section(text: str, victim: Path) -> str:
    return text + yaml.safe_dump({"hydra": _hydra(victim)})


def _defaults(text: str, victim: Path) -> str:
    return text.replace("  - _self_", "  - evil\n  - _self_")


def _interpolation(text: str, victim: Path) -> str:
    return text.replace("name: demo", "name: ${oc.env:HOME}", 1)


def _package(text: str, victim: Path) -> str:
    return "# @package hydra.callbacks\n" + text


def _unknown(text: str, victim: Path) -> str:
    return text + "_target_: os.system\n"


def _object(text: str, victim: Path) -> str:
    return text + f"notes: !!python/object/apply:os.mknod ['{victim}']\n"


@pytest.mark.parametrize("edit", [_section, _defaults, _interpolation, _package, _unknown, _object])
def test_the_configuration_of_a_run_that_goes_on_is_settings_alone(
    edit: Callable[[str, Path], str], resumed: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    config = resumed / "config.yaml"
    config.write_text(edit(config.read_text(), victim))
    (resumed / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"hydra": _hydra(victim)}))
    done = run_program("train.py", f"resume={resumed}", cwd=tmp_path)
    assert done.returncode == 2, done.said
    assert "config.yaml is not what a run writes" in done.said
    assert not victim.exists()


def test_a_schema_beside_the_configuration_is_not_taken_for_that_of_cxr(resumed: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (resumed / "schema.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"hydra": _hydra(victim)}))
    done = run_program("train.py", f"resume={resumed}", cwd=tmp_path)
    assert done.returncode == 2, done.said
    assert not victim.exists()


@pytest.mark.parametrize(
    "word", ["hydra.callbacks.evil._target_=os.system", "--experimental-rerun=evil.pickle", "name=${oc.env:HOME}"]
)
def test_a_sweep_that_goes_on_takes_nothing_but_settings_from_its_folder(word: str, tmp_path: Path) -> None:
    content = {"hydra": {"overrides": {"hydra": ["hydra.mode=MULTIRUN"], "task": ["seed=1,2", word]}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(content))
    done = run_program("train.py", "-m", f"sweep.resume={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2, done.said
    assert len(done.said.splitlines()) == 1
    assert "multirun.yaml" in done.said
