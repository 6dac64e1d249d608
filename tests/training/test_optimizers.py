from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cxr.errors import ConfigurationError
from cxr.training.optimizers import build_optimizer, parameter_groups


def test_only_weights_with_two_dimensions_and_more_decay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, plain = parameter_groups(network, 0.1)
    assert [parameter.ndim for parameter in decayed["params"]] == [4, 2]
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(network.parameters()))


def test_what_a_backbone_excludes_does_not_decay() -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
            self.weight = nn.Parameter(torch.zeros(8, 8))

        def no_weight_decay(self) -> set[str]:
            return {"pos_embed"}

    network = nn.Sequential(Embedding())
    decayed, plain = parameter_groups(network, 0.1)
    assert decayed["params"] == [network[0].weight]
    assert plain["params"][0] is network[0].pos_embed


def test_frozen_parameters_are_left_out() -> None:
    network = nn.Linear(3, 2)
    network.weight.requires_grad_(False)
    (plain,) = parameter_groups(network, 0.1)
    assert plain["params"] == [network.bias]


def test_decay_shrinks_a_weight_without_gradient_and_leaves_a_bias() -> None:
    network = nn.Linear(2, 2)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = build_optimizer(parameter_groups(network, 0.5), lr=0.1, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before["weight"] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(network.bias.detach(), before["bias"])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_or_not_is_the_same_step(name: str) -> None:
    weights = []
    for fused in (False, True):
        weight = nn.Parameter(torch.ones(3, 3))
        optimizer = build_optimizer([{"params": [weight], "weight_decay": 0.1}], name=name, lr=0.1, fused=fused)
        for step in range(3):
            weight.grad = torch.full((3, 3), float(step + 1))
            optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(weights[0], weights[1])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"name": "lamb"}, "optimizer.name=lamb"),
        ({"lr": 0.0}, "optimizer.lr=0.0"),
        ({"lr": float("nan")}, "optimizer.lr=nan"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1"),
        ({"momentum": 1.0}, "optimizer.momentum=1"),
    ],
)
def test_wrong_settings_are_refused_by_name(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        build_optimizer([{"params": [nn.Parameter(torch.zeros(1))]}], **options)


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no trainable parameter"):
        build_optimizer(parameter_groups(nn.Flatten(), 0.0))
