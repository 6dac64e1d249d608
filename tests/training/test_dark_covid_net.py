"""DarkCovidNet: as the paper describes it, and everywhere where a timm network goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cxr.errors import ConfigurationError
from cxr.evaluation.saliency.grad_cam import grad_cam, signed_maps
from cxr.training.backbones import create_backbone
from cxr.training.fused_inference import FusedNetwork, fuse_for_inference
from cxr.training.heads import ConcatPoolHead
from cxr.training.layer_groups import layer_groups
from cxr.training.module import CXRModule


def test_it_has_the_layers_and_parameters_of_the_paper() -> None:
    network: Any = create_backbone("darkcovidnet", num_classes=2, image_size=256, pretrained=False).network.eval()
    kinds = [type(part) for part in network.modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) == kinds.count(nn.LeakyReLU) == 17
    assert kinds.count(nn.MaxPool2d) == 5
    assert {part.negative_slope for part in network.modules() if isinstance(part, nn.LeakyReLU)} == {0.1}
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_164_434  # table 2 of the paper
    with torch.inference_mode():
        features = network.forward_features(torch.zeros(1, 3, 256, 256))
        assert features.shape == (1, 256, 13, 13)
        assert network.forward_head(features).shape == (1, 2)


@pytest.mark.parametrize("image_size", [32, 96, 224])
def test_it_is_built_for_the_image_size_that_is_set(image_size: int) -> None:
    network = create_backbone("darkcovidnet", num_classes=3, image_size=image_size, pretrained=False).network.eval()
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits: Tensor = network(images)
        assert logits.shape == (2, 3)
        fused = fuse_for_inference(network)
        assert isinstance(fused, FusedNetwork)
        torch.testing.assert_close(fused(images), logits, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_restores_it_by_name_and_its_evidence_can_be_drawn(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_module(backbone="darkcovidnet")
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, loader([0, 1] * 16), loader([0, 1] * 8, seed=2))
    assert float(trainer.callback_metrics["val/auroc"]) == 1.0, "images that differ in brightness are told apart"
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    restored = CXRModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True).eval()
    images = next(iter(loader([0, 1])))["image"]
    torch.testing.assert_close(restored(images), module.eval()(images))
    assert grad_cam(restored, images, "covid").shape == (2, 32, 32)
    evidence = signed_maps(restored, images, "covid")  # which may be against the class everywhere
    assert evidence.shape == (2, *restored.network.forward_features(torch.zeros(1, 3, 32, 32)).shape[2:])
    assert (np.ptp(evidence, axis=(1, 2)) > 0).all()


def test_it_takes_the_other_head_and_has_no_weights_to_fetch() -> None:
    made: Any = create_backbone("darkcovidnet", num_classes=2, image_size=64, pretrained=False, head="concat_pool")
    assert isinstance(made.network.get_classifier(), ConcatPoolHead)
    assert made.network.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 2)
    with pytest.raises(ConfigurationError, match=r"use model.pretrained=false"):
        create_backbone("darkcovidnet", num_classes=2, pretrained=True)
    with pytest.raises(ConfigurationError, match=r"model.drop_path_rate=0.1: darkcovidnet"):
        create_backbone("darkcovidnet", num_classes=2, pretrained=False, drop_path_rate=0.1)


def test_its_layers_are_known_in_halves_and_it_keeps_to_its_image_size(make_module: Callable[..., CXRModule]) -> None:
    network = create_backbone("darkcovidnet", num_classes=2, image_size=64, pretrained=False).network
    groups = layer_groups(network)
    assert set(groups) == {name for name, _ in network.named_parameters()}
    assert {name.split(".")[0] for name, group in groups.items() if group == 2} == {"head"}
    convolutions = [groups[name] for name, each in network.named_parameters() if each.ndim == 4]
    assert convolutions == [0] * 8 + [1] * 8 + [2]
    with pytest.raises(ConfigurationError, match=r"image_size=16 and data.image_size=32.* darkcovidnet"):
        make_module(backbone="darkcovidnet", schedule={"stages": [{"epochs": 1, "image_size": 16}]})
