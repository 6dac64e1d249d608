"""Which optimizer moves the weights, and which of them decay?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from cxr.errors import ConfigurationError

OPTIMIZERS = ("adamw", "sgd")


def parameter_groups(
    network: nn.Module, weight_decay: float, layer_groups: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Divide the parameters into those that decay and those that do not.

    Biases, the scales of normalisations and other vectors are left alone (He et al., "Bag of Tricks for Image
    Classification with Convolutional Neural Networks", 2019): pulled towards zero they make no simpler function. What a
    backbone itself excludes (timm's ``no_weight_decay``, such as position embeddings) is left alone too.

    Args:
        network: those of its parameters that take no gradient are left out, unless there are layer groups.
        weight_decay: of those that decay.
        layer_groups: name of each parameter -> its layer group, from 0, where these have rates of their own; what a
            stage freezes may be trained in the next, so that all parameters are taken. The groups then say theirs
            under ``layer_group``, the head last.
    """
    excluded: set[str] = set()
    for prefix, module in network.named_modules():
        own = getattr(module, "no_weight_decay", None)
        if callable(own):
            excluded |= {f"{prefix}.{name}" if prefix else name for name in own()}
    divided: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad or layer_groups is not None:
            plain = parameter.ndim <= 1 or name in excluded
            place = 0 if layer_groups is None else layer_groups[name]
            divided.setdefault((place, plain), []).append(parameter)
    groups = []
    for (place, plain), parameters in sorted(divided.items(), key=lambda each: each[0]):
        group: dict[str, Any] = {"params": parameters, "weight_decay": 0.0 if plain else weight_decay}
        groups.append(group if layer_groups is None else {**group, "layer_group": place})
    return groups


def build_optimizer(
    groups: Iterable[dict[str, Any]],
    *,
    name: str = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    momentum: float = 0.9,
    beta2: float = 0.99,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Build AdamW or SGD with Nesterov momentum.

    Args:
        groups: from `parameter_groups`.
        name: ``adamw`` or ``sgd``.
        lr: learning rate (the highest, where a schedule moves it); > 0.
        weight_decay: decoupled for adamw (per step, times the rate), an L2 penalty for sgd; >= 0.
        momentum: beta1 of adamw, momentum of sgd; in [0, 1). A one-cycle schedule moves it.
        beta2: of adamw; in [0, 1).
        fused: one kernel for all parameters.

    Raises:
        ConfigurationError: an unknown name, or a number out of its range.
    """
    if name not in OPTIMIZERS:
        raise ConfigurationError(f"optimizer.name={name}: give one of {', '.join(OPTIMIZERS)}")
    if not lr > 0:
        raise ConfigurationError(f"optimizer.lr={lr}: give a number above 0")
    if not weight_decay >= 0:
        raise ConfigurationError(f"optimizer.weight_decay={weight_decay}: give 0 or more")
    for key, value in (("momentum", momentum), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise ConfigurationError(f"optimizer.{key}={value}: give a number in [0, 1)")
    groups = list(groups)
    if not groups:
        raise ConfigurationError("optimizer: the network has no trainable parameter")
    if name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0, fused=fused
        )
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, beta2), weight_decay=weight_decay, fused=fused)
