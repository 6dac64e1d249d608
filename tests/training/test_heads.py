"""The head of fastai on backbones of every kind that is offered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import safetensors.torch
import timm
import torch
from torch import nn

from cxr.errors import ConfigurationError
from cxr.evaluation.saliency.grad_cam import grad_cam
from cxr.evaluation.saliency.randomisation import randomised_network
from cxr.training.backbones import create_backbone
from cxr.training.fused_inference import FusedNetwork, fuse_for_inference
from cxr.training.heads import ConcatPoolHead
from cxr.training.layer_groups import layer_groups
from cxr.training.module import CXRModule


def test_the_head_is_what_fastai_builds() -> None:
    head = ConcatPoolHead(7, 3).eval()
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [layer.p for layer in head.layers if isinstance(layer, nn.Dropout)] == [0.25, 0.5]
    linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    assert [(each.in_features, each.out_features, each.bias is not None) for each in linear] == [
        (14, 512, False),
        (512, 3, True),
    ]
    features = torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(0))
    pooled = np.concatenate([features.numpy().max((2, 3)), features.numpy().mean((2, 3))], axis=1)
    torch.testing.assert_close(head(features), head.layers(torch.from_numpy(pooled)))


# A small one of each kind in conf/model: resnet, densenet, convnext, efficientnet.
KINDS = ["resnet10t", "densenet121", "test_convnext", "test_efficientnet"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_convolutional_backbone_takes_it(name: str) -> None:
    torch.manual_seed(0)
    made = create_backbone(name, num_classes=3, image_size=64, pretrained=False, head="concat_pool")
    network: Any = made.network
    assert network.training
    assert isinstance(network.get_classifier(), ConcatPoolHead)
    network.eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = network(images)
        assert logits.shape == (2, 3)
        features = network.forward_features(images)
        assert features.ndim == 4
        torch.testing.assert_close(network.forward_head(features), logits)
        fused = fuse_for_inference(network)
        assert isinstance(fused, FusedNetwork) == (name != "test_convnext")  # which has no batch norm to fuse
        torch.testing.assert_close(fused(images), logits, rtol=1e-4, atol=1e-5)
    # A stage that freezes the body trains the head, all of it and nothing else.
    head = {name for name, group in layer_groups(network).items() if group == 2}
    own = {id(each) for each in network.get_classifier().parameters()}
    assert head == {name for name, each in network.named_parameters() if id(each) in own}


def test_a_network_without_a_map_of_features_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"model.head=concat_pool: test_vit .* use model.head=linear"
    ) as caught:
        create_backbone("test_vit", num_classes=2, image_size=64, pretrained=False, head="concat_pool")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"model.drop_rate=0.2"):
        create_backbone("resnet10t", num_classes=2, pretrained=False, head="concat_pool", drop_rate=0.2)


def test_weights_of_a_network_with_its_own_classifier_fit_all_but_the_head(tmp_path: Path) -> None:
    given = timm.create_model("test_resnet", num_classes=10).state_dict()
    safetensors.torch.save_file(given, tmp_path / "weights.safetensors")
    made = create_backbone(
        "test_resnet", num_classes=2, image_size=64, weights=tmp_path / "weights.safetensors", head="concat_pool"
    )
    assert made.loaded is not None
    assert made.loaded.left_out == ["fc.bias", "fc.weight"]
    assert {"fc.layers.2.weight", "fc.layers.6.bias"} <= set(made.loaded.fresh)
    assert all(name.startswith("fc.") for name in made.loaded.fresh)
    torch.testing.assert_close(made.network.get_parameter("conv1.0.weight"), given["conv1.0.weight"])


def test_a_checkpoint_restores_it_and_its_evidence_can_be_drawn(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], tmp_path: Path
) -> None:
    module = make_module(head="concat_pool")
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, loader([0, 1] * 8), loader([0, 1] * 4))
    assert "val/auroc" in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    restored = CXRModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True).eval()
    images = next(iter(loader([0, 1])))["image"]
    torch.testing.assert_close(restored(images), module.eval()(images))
    maps = grad_cam(restored, images, "covid")
    assert maps.shape == (2, 32, 32)
    assert maps.max() > 0
    assert isinstance(randomised_network(restored, layers=1, seed=0).get_submodule("fc"), ConcatPoolHead)


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "efficientnet_b0"])
def test_drop_path_leaves_residuals_out_in_training_alone(name: str) -> None:
    network = create_backbone(name, num_classes=2, image_size=64, pretrained=False, drop_path_rate=0.9).network
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
            nn.init.ones_(part.weight)  # also the last of a residual, which timm starts at 0
        if hasattr(part, "gamma") and isinstance(part.gamma, nn.Parameter):
            nn.init.ones_(part.gamma)
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 64).repeat(8, 1, 1, 1)
    with torch.no_grad():
        assert network(images).std(0).max() > 1e-5
        torch.testing.assert_close(*network.eval()(images)[:2])


@pytest.mark.parametrize("name", ["densenet121", "vgg11"])
def test_drop_path_is_refused_where_there_is_none(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"model.drop_path_rate=0.1: {name}"):
        create_backbone(name, num_classes=2, pretrained=False, drop_path_rate=0.1)
