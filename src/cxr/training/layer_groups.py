"""Which layers of a network belong together, and which of them does a stage train?"""

from __future__ import annotations

from collections.abc import Iterator

from timm.models import group_parameters
from torch import nn

from cxr.errors import ConfigurationError
from cxr.training.stage_plan import FREEZES, NUM_GROUPS, Stage


def layer_groups(network: nn.Module) -> dict[str, int]:
    """Divide a timm network into `NUM_GROUPS` groups, as fastai does: two halves of the body, and the head.

    The halves are made of the blocks that timm divides a network into for layer-wise rates; of a ResNet the first holds
    the stem and the stages 1 and 2, the second the stages 3 and 4.

    Returns:
        name of a parameter -> 0 (first half), 1 (second half) or 2 (head).

    Raises:
        ConfigurationError: the network does not tell its blocks.
    """
    matcher = getattr(network, "group_matcher", None)
    if not callable(matcher):
        raise ConfigurationError(
            "schedule.stages: this network does not tell its blocks, so that none can be frozen, or have its own rate"
        )
    blocks = group_parameters(network, matcher(coarse=True))
    head = tuple(f"{name}." for name in head_names(network))
    body = [names for _, names in sorted(blocks.items()) if not all(name.startswith(head) for name in names)]
    found = {}
    for place, names in enumerate(body):
        for name in names:
            found[name] = int(place >= (len(body) + 1) // 2)
    for name, _ in network.named_parameters():
        if name.startswith(head):
            found[name] = NUM_GROUPS - 1
    return found


def head_names(network: nn.Module) -> tuple[str, ...]:
    """The modules that turn features into classes."""
    classifier = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def freeze(network: nn.Module, stage: Stage) -> int:
    """Let the parameters of a stage be trained, and no others.

    Batch norms go on to learn in frozen layers, as in fastai, unless the stage freezes them, too.

    Returns:
        How many parameters (numbers, not tensors) are trained.
    """
    num_frozen = FREEZES.index(stage.freeze)
    groups = layer_groups(network) if num_frozen else {}
    norms = {name for name, _ in batch_norms(network)}
    trained = 0
    for name, parameter in network.named_parameters():
        frozen = groups.get(name, NUM_GROUPS) < num_frozen
        if frozen and not stage.freeze_batch_norm and name.rpartition(".")[0] in norms:
            frozen = False
        parameter.requires_grad_(not frozen)
        trained += 0 if frozen else parameter.numel()
    return trained


def quiet_batch_norms(network: nn.Module, stage: Stage) -> None:
    """Keep the statistics of batch norms in frozen layers, where the stage asks for that; until the next `train()`."""
    num_frozen = FREEZES.index(stage.freeze)
    if not num_frozen or not stage.freeze_batch_norm:
        return
    groups = layer_groups(network)
    for name, norm in batch_norms(network):
        if groups.get(f"{name}.weight", NUM_GROUPS) < num_frozen:
            norm.eval()


def batch_norms(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The batch norms of a network, by name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield name, module
