"""What becomes of an exported folder that is damaged, or was made by an attacker?  One line, and nothing runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cxr.errors import CheckpointError
from cxr.evaluation.export.opening import open_network
from cxr.evaluation.export.writing import export_run
from cxr.training.module import CXRModule

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def original(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder that is as it should be."""
    output = tmp_path_factory.mktemp("original") / "served"
    copy = Path(shutil.copytree(trained, output.parent / "run"))
    return export_run(copy, output_dir=output, formats=["safetensors"], num_images=1, progress=False).folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to, file by file."""
    return Path(shutil.copytree(original, tmp_path / "served", copy_function=os.link))


def failure(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_network(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert str(folder) in message
    assert caught.value.exit_status == 5
    return message


def describe(folder: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> None:
    """Write ``model.json`` anew, changed, with the sha256 of the weights as they now are."""
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    content["files"]["model.safetensors"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    change(content)
    put(folder / "model.json", json.dumps(content).encode())


def put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def weigh(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Write other weights, and a description that vouches for them."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    put(path, safetensors.torch.save(tensors))
    describe(folder)


def test_a_folder_that_is_as_it_should_be_opens(folder: Path) -> None:
    describe(folder)
    for given in (folder, folder / "model.json", folder / "model.safetensors"):
        opened = open_network(given)
        assert not opened.module.training
        assert opened.module.class_names == ["covid", "other"]
        assert opened.run_dir is None


def test_a_network_with_another_head_opens_and_no_head_is_taken_for_another(folder: Path) -> None:
    named = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    made = CXRModule(
        named["backbone"],
        class_names=named["class_names"],
        positive=named["positive"],
        image_size=32,
        pretrained=False,
        head="concat_pool",
    ).eval()
    tensors = {name: tensor.contiguous() for name, tensor in made.network.state_dict().items()}
    put(folder / "model.safetensors", safetensors.torch.save(tensors))
    describe(folder)
    assert "fc" in failure(folder)
    describe(folder, lambda content: content.update(head="concat_pool"))
    images = torch.randint(0, 256, (2, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(open_network(folder).module(images), made(images))
    describe(folder, lambda content: content.update(head="exec"))
    assert "head" in failure(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("conv1.0.weight"), "conv1.0.weight"),
        (lambda tensors: tensors.update({"../../evil": torch.zeros(1)}), "1 unknown"),
        (lambda tensors: tensors.update({"fc.weight": torch.zeros(3, 512)}), r"fc.weight is F32 \[3, 512\]"),
        (lambda tensors: tensors.update({"fc.weight": torch.zeros(2, 512).half()}), "fc.weight is F16"),
        (lambda tensors: tensors["fc.weight"].view(-1)[7:8].fill_(float("nan")), "fc.weight holds numbers"),
        (lambda tensors: tensors["bn1.running_var"][:1].fill_(float("inf")), "bn1.running_var holds numbers"),
    ],
    ids=["missing", "unknown", "shape", "type", "nan", "infinite"],
)
def test_tensors_that_are_not_of_the_network(folder: Path, change: Callable[[Tensors], object], told: str) -> None:
    weigh(folder, change)
    message = failure(folder)
    assert re.search(told, message), message


def test_weights_that_the_description_does_not_know(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    put(path, bytes(content))
    assert "sha256" in failure(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_weights_that_were_cut_off(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    put(path, path.read_bytes()[: int(path.stat().st_size * share)])
    describe(folder)
    assert "model.safetensors" in failure(folder)


def test_shapes_that_promise_more_than_the_memory_holds_take_none(folder: Path) -> None:
    header = {"fc.weight": {"dtype": "F32", "shape": [2**40, 512], "data_offsets": [0, 2**51]}}
    text = json.dumps(header).encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    put(folder / "model.safetensors", struct.pack("<Q", len(text)) + text)
    describe(folder)
    failure(folder)
    # A network whose own tensors are beyond what the file holds: refused by their names and shapes alone.
    describe(folder, lambda content: content.update(backbone="vit_large_patch16_224"))
    failure(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, "kB; the large network has 1.2 GB of weights"


def nested(content: dict[str, Any]) -> None:
    content["preparation"] = json.loads("[" * 500 + "]" * 500)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.update(_target_="os.system"), "_target_"),
        (lambda content: content["calibration"].update(notes=["<script>"]), "calibration"),
        (lambda content: content.pop("positive"), "positive"),
        (lambda content: content.update(format="pickle"), "format"),
        (lambda content: content.update(version=2), "version: 2"),
        (lambda content: content.update(version=True), "version"),
        (lambda content: content.update(backbone="resnet11"), "resnet11"),
        (lambda content: content.update(backbone="hf-hub:somebody/network"), "backbone"),
        (lambda content: content.update(backbone="../../network"), "backbone"),
        (lambda content: content.update(backbone="resnet18"), "model.safetensors"),
        (lambda content: content.update(backbone=["test_resnet"]), "backbone"),
        (lambda content: content["files"].update({"../../.bashrc": "0" * 64}), "files"),
        (lambda content: content["files"].update({"model.safetensors": "../../weights"}), "files"),
        (lambda content: content.update(class_names=["covid"]), "class_names"),
        (lambda content: content.update(class_names=["covid", "covid"]), "twice"),
        (lambda content: content.update(class_names=["covid", "\x1b[2Jother"]), "class_names"),
        (lambda content: content.update(class_names=["covid"] + [f"class {n}" for n in range(2000)]), "class_names"),
        (lambda content: content.update(positive="healthy"), "positive"),
        (lambda content: content["preparation"].update(size=10**9), "image_size"),
        (lambda content: content["preparation"].update(size=32.5), "image_size"),
        (lambda content: content["preparation"].update(aspect="stretch"), "aspect"),
        (nested, "preparation"),
        (lambda content: content["normalisation"].update(scale=[1, 1]), "scale"),
        (lambda content: content["normalisation"].update(offset=[0, 0, 10**400]), "offset|Overflow"),
        (lambda content: content["calibration"].update(temperature=0), "temperature"),
        (lambda content: content["operating_points"][0].update(threshold=-1), "threshold"),
        (lambda content: content["operating_points"][0].update(rule="__import__('os')"), "operating_points"),
        (lambda content: content["operating_points"].append(content["operating_points"][0]), "twice"),
        (lambda content: content["fitted_on"].update(split="test"), "fitted_on"),
        (lambda content: content.update(training_images={"covid": -1}), "training_images"),
        (lambda content: content.update(training_images={"anna": 1}), "training_images"),
        (lambda content: content.update(epoch="1"), "epoch"),
        (lambda content: content["parity"].update(drawn_from="test"), "parity"),
    ],
)
def test_a_description_that_is_none(folder: Path, change: Callable[[dict[str, Any]], object], told: str) -> None:
    describe(folder, change)
    message = failure(folder)
    assert re.search(told, message), message


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": "cxr-model", "format": "cxr-model"}',
        b'{"epoch": NaN}', b'{"a": 1' + b"0" * 10_000 + b"}", b" " * (5 * 2**20),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_of_ours(folder: Path, content: bytes) -> None:
    put(folder / "model.json", content)
    assert "model.json" in failure(folder)


def test_a_folder_for_other_programs_says_how_to_get_one_for_this(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "formats=[safetensors,onnx]" in failure(folder)
