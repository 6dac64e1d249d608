"""Folding changes how long an evaluation takes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
from torch import Tensor, nn

from cxr.training.folding import FoldedNetwork
from cxr.training.module import CXRModule


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms that do something, as after a training."""
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "folds"),
    [("resnet10t", True), ("densenet121", False), ("convnext_atto", False), ("efficientnet_b0", False)],
)
def test_logits_are_those_of_the_network(name: str, folds: bool) -> None:
    network = with_statistics(timm.create_model(name, num_classes=3))
    folded = FoldedNetwork(network)
    folded.refresh()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(folded(image), network(image), rtol=1e-4, atol=1e-5)
    assert (folded.num_folded > 0) == folds


class Branching(nn.Module):
    """Its steps hang on its input, so that they cannot be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(image)).mean((2, 3))
        return out if bool(image.mean() > 0) else -out


class Shared(nn.Module):
    """One convolution before two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, image: Tensor) -> Tensor:
        first: Tensor = self.norm(self.conv(image))
        second: Tensor = self.other(self.conv(-image))
        return (first - second).mean((2, 3))


@pytest.mark.parametrize("network", [Branching(), Shared()])
def test_a_network_that_cannot_be_folded_is_evaluated_as_it_is(network: nn.Module) -> None:
    folded = FoldedNetwork(with_statistics(network))
    folded.refresh()
    assert folded.num_folded == 0
    for sign in (1, -1):
        image = sign * torch.rand(2, 3, 8, 8)
        assert torch.equal(folded(image), network(image))


def test_the_module_folds_the_weights_of_the_moment_and_keeps_its_own(make_module: Callable[..., CXRModule]) -> None:
    module = make_module(backbone="resnet10t", image_size=64).eval()
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    names = list(module.state_dict())
    with torch.inference_mode():
        before = module(images)
        module.fold()
        assert torch.allclose(module(images), before, atol=1e-5)
        with_statistics(module.network)
        module.fold()
        changed = module(images)
        module.unfold()
        assert not torch.allclose(changed, before, atol=1e-3)
        assert torch.allclose(module(images), changed, rtol=1e-4, atol=1e-5)
    assert list(module.state_dict()) == names


def test_a_training_is_the_same_with_and_without_validation(
    make_module: Callable[..., CXRModule], loader: Callable[..., Any], tmp_path: Path
) -> None:
    """Evaluating the folded copy between the epochs must not touch the weights, their modes or the random numbers."""
    weights = []
    for limit_val_batches in (0, 2):
        module = make_module(backbone="resnet10t", drop_rate=0.3)
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=limit_val_batches,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, loader([0, 1] * 12), loader([0, 1] * 8))
        weights.append(module.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
