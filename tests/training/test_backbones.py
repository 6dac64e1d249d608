from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from cxr.errors import CheckpointError, ConfigurationError
from cxr.training.backbones import create_backbone
from cxr.training.run_directory import RunDirectory

REPOSITORY = "timm/test_resnet.r160_in1k"


def _weights(name: str = "test_resnet", num_classes: int = 1000, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(7)
    state: dict[str, Tensor] = timm.create_model(name, num_classes=num_classes, **options).state_dict()
    return state


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("image_size", [64, 96])
def test_any_kind_of_backbone_takes_the_image_size_that_is_set(name: str, image_size: int) -> None:
    backbone = create_backbone(name, num_classes=3, image_size=image_size, pretrained=False)
    assert backbone.network.eval()(torch.zeros(2, 3, image_size, image_size)).shape == (2, 3)
    assert backbone.loaded is None


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        "densenet121",
        "convnext_tiny",
        "efficientnet_b0",
        "vit_small_patch16_224",
    ],
)
def test_the_networks_that_are_offered_exist_with_weights(name: str) -> None:
    assert timm.is_model(name)
    assert timm.get_pretrained_cfg(name).hf_hub_id


def test_normalisation_is_the_backbone_s_own() -> None:
    assert create_backbone("resnet10t", num_classes=2, pretrained=False).mean == (0.485, 0.456, 0.406)
    assert create_backbone("test_vit", num_classes=2, pretrained=False).std == (0.5, 0.5, 0.5)


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"model.name=resnet51: .*resnet50"):
        create_backbone("resnet51", num_classes=2, pretrained=False)
    with pytest.raises(ConfigurationError, match=r"only r160_in1k"):
        create_backbone("test_resnet.imagenet", num_classes=2, pretrained=False)


def test_an_image_size_between_two_patches_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"data.image_size=100: .* use 96"):
        create_backbone("test_vit", num_classes=2, image_size=100, pretrained=False)


def test_channels_last_is_a_choice() -> None:
    for wanted in (True, False):
        network = create_backbone("test_resnet", num_classes=2, pretrained=False, channels_last=wanted).network
        weight = network.get_parameter("layer1.0.conv2.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last) is wanted


def test_dropout_reaches_the_classifier() -> None:
    network = create_backbone("test_resnet", num_classes=2, pretrained=False, drop_rate=0.9).network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(network(image), network(image))


# ------------------------------------------------------------------------------------------------- the network's hub


def test_pretrained_weights_come_from_the_hub_once_and_then_from_the_cache(hub: Any) -> None:
    given = _weights()
    hub.offer(REPOSITORY, given)
    first = create_backbone("test_resnet", num_classes=2, pretrained=True)
    torch.testing.assert_close(first.network.get_parameter("conv1.0.weight"), given["conv1.0.weight"])
    assert first.loaded is not None
    assert first.loaded.source == REPOSITORY
    assert first.loaded.fresh == ["fc.bias", "fc.weight"]
    hub.close()
    again = create_backbone("test_resnet", num_classes=2, pretrained=True)
    torch.testing.assert_close(again.network.get_parameter("conv1.0.weight"), given["conv1.0.weight"])


def test_a_missing_network_is_one_line_with_two_ways_out(hub: Any) -> None:
    hub.close()
    with pytest.raises(ConfigurationError) as caught:
        create_backbone("test_resnet", num_classes=2, pretrained=True)
    line = str(caught.value)
    assert "\n" not in line
    assert "model.pretrained=false" in line
    assert "model.weights=<file or run>" in line


def test_a_hub_in_trouble_is_asked_once_not_a_dozen_times(hub: Any) -> None:
    hub.broken = True
    with pytest.raises(ConfigurationError, match=r"the hub answers 503"):
        create_backbone("test_resnet", num_classes=2, pretrained=True)
    assert len(hub.requests) == 1


def test_a_hub_without_the_file_is_one_line_too(hub: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"model.pretrained=false"):
        create_backbone("test_resnet", num_classes=2, pretrained=True)


def test_a_network_that_nobody_trained_cannot_be_pretrained() -> None:
    with pytest.raises(ConfigurationError, match=r"offers no weights for it; use model.pretrained=false"):
        create_backbone("botnet50ts_256", num_classes=2, pretrained=True)


# ----------------------------------------------------------------------------------------------------- weight files


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested", "parallel"])
def test_a_file_of_weights_is_taken_and_its_classifier_left_out(tmp_path: Path, kind: str) -> None:
    given = _weights()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(given, path)
    else:
        parallel = {f"module.{name}": tensor for name, tensor in given.items()}
        torch.save({"pth": given, "nested": {"state_dict": given, "epoch": 3}, "parallel": parallel}[kind], path)
    backbone = create_backbone("test_resnet", num_classes=2, pretrained=True, weights=path)
    assert backbone.loaded is not None
    assert backbone.loaded.left_out == ["fc.bias", "fc.weight"]
    assert backbone.loaded.num_loaded == len(given) - 2
    torch.testing.assert_close(backbone.network.get_parameter("layer2.0.conv2.weight"), given["layer2.0.conv2.weight"])


def test_a_classifier_of_as_many_classes_is_kept(tmp_path: Path) -> None:
    given = _weights(num_classes=2)
    safetensors.torch.save_file(given, tmp_path / "weights.safetensors")
    backbone = create_backbone("test_resnet", num_classes=2, weights=tmp_path / "weights.safetensors")
    assert backbone.loaded is not None
    assert (backbone.loaded.left_out, backbone.loaded.fresh) == ([], [])
    torch.testing.assert_close(backbone.network.get_parameter("fc.weight"), given["fc.weight"])


def test_position_embeddings_are_fitted_to_the_image_size(tmp_path: Path) -> None:
    safetensors.torch.save_file(_weights("test_vit", img_size=160), tmp_path / "weights.safetensors")
    backbone = create_backbone("test_vit", num_classes=2, image_size=96, weights=tmp_path / "weights.safetensors")
    assert backbone.loaded is not None
    assert backbone.loaded.resized == ["pos_embed"]
    assert backbone.network.eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 2)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(_weights("test_convnext"), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"not of this network: .* missing, .* unknown"):
        create_backbone("test_resnet", num_classes=2, weights=tmp_path / "weights.safetensors")


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match=r"weights alone"):
        create_backbone("test_resnet", num_classes=2, weights=tmp_path / "weights.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a file of weights"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_is_missing_or_damaged_is_one_line(tmp_path: Path, content: bytes | None, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        create_backbone("test_resnet", num_classes=2, weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"no state dict"):
        create_backbone("test_resnet", num_classes=2, weights=tmp_path / "weights.pth")


def test_a_run_stands_for_its_best_checkpoint_unless_it_keeps_the_last(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "pretraining")
    for path, seed in ((run.last_checkpoint_path, 1), (run.best_checkpoint_path, 2)):
        torch.manual_seed(seed)
        tensors = timm.create_model("test_resnet", num_classes=3).state_dict()
        path.parent.mkdir(exist_ok=True)
        torch.save({"state_dict": {f"network.{name}": tensor for name, tensor in tensors.items()}}, path)
    made = create_backbone("test_resnet", num_classes=2, weights=run.path)
    assert made.loaded is not None
    assert made.loaded.source == str(run.best_checkpoint_path)
    assert made.loaded.left_out == ["fc.bias", "fc.weight"]
    torch.testing.assert_close(made.network.get_parameter("conv1.0.weight"), tensors["conv1.0.weight"])
    run.config_path.write_text("trainer: {checkpoint: last}\n")
    chosen = create_backbone("test_resnet", num_classes=2, weights=run.path)
    assert chosen.loaded is not None
    assert chosen.loaded.source == str(run.last_checkpoint_path), "what the run itself stands for"
    run.config_path.unlink()
    run.best_checkpoint_path.unlink()
    last = create_backbone("test_resnet", num_classes=2, weights=run.path)
    assert last.loaded is not None
    assert last.loaded.source == str(run.last_checkpoint_path)


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run with a checkpoint: looked for .*best\.ckpt"):
        create_backbone("test_resnet", num_classes=2, weights=tmp_path)
