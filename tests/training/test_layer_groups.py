"""Which layers are frozen, and which have a rate of their own, in every backbone that is shipped?"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from cxr.errors import ConfigurationError
from cxr.training.layer_groups import batch_norms, freeze, layer_groups, quiet_batch_norms
from cxr.training.optimizers import parameter_groups
from cxr.training.stage_plan import Stage, build_stages, sizes_of_epochs, stage_of

SHIPPED = sorted(
    yaml.safe_load(path.read_text())["name"] for path in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml")
)


def stage(**given: object) -> Stage:
    return build_stages([{"epochs": 1, **given}], lr=1e-3, schedule="one_cycle")[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_backbone_has_two_halves_and_a_head(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=2)
    groups = layer_groups(network)
    assert groups.keys() == dict(network.named_parameters()).keys()
    order = [groups[parameter] for parameter, _ in network.named_parameters()]
    assert order == sorted(order), "a later layer is never in an earlier group"
    sizes = [sum(p.numel() for n, p in network.named_parameters() if groups[n] == group) for group in range(3)]
    classifier = [p for n, p in network.named_parameters() if groups[n] == 2]
    assert {p.shape[0] for p in classifier} == {2}, "the head is what knows the classes, and no more"
    assert min(sizes[:2]) > 0.01 * sum(sizes)


def test_a_resnet_is_divided_as_fastai_does() -> None:
    groups = layer_groups(timm.create_model("resnet18", num_classes=2))
    of = {
        name: groups[f"{name}.weight"] for name in ("conv1", "layer2.1.conv2", "layer3.0.conv1", "layer4.1.bn2", "fc")
    }
    assert of == {"conv1": 0, "layer2.1.conv2": 0, "layer3.0.conv1": 1, "layer4.1.bn2": 1, "fc": 2}


@pytest.mark.parametrize("frozen", ["none", "half", "body"])
@pytest.mark.parametrize("norms_too", [False, True])
def test_what_is_frozen_does_not_move(frozen: str, norms_too: bool) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=2).train()
    for _, norm in batch_norms(network):  # some begin at 0, and leave the layers before them without a gradient
        nn.init.constant_(norm.weight, 0.5)
    groups = layer_groups(network)
    chosen = stage(freeze=frozen, freeze_batch_norm=norms_too)
    num_trained = freeze(network, chosen)
    quiet_batch_norms(network, chosen)
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1, groups), lr=0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    nn.functional.cross_entropy(network(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    num_frozen = ("none", "half", "body").index(frozen)
    norms = {name for name, _ in batch_norms(network)}
    parameters = dict(network.named_parameters())
    for name in parameters:
        of_norm = name.rpartition(".")[0] in norms
        still = groups[name] < num_frozen and not (of_norm and not norms_too)
        assert (name not in moved) == still, name
    for name in norms:
        still = norms_too and groups[f"{name}.weight"] < num_frozen
        assert (f"{name}.running_mean" not in moved) == still, name
    assert num_trained == sum(p.numel() for p in parameters.values() if p.requires_grad)
    freeze(network, stage())
    assert all(p.requires_grad for p in parameters.values()), "the next stage trains them again"


def test_a_network_that_does_not_tell_its_blocks_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"schedule\.stages: this network"):
        layer_groups(nn.Linear(2, 2))


def test_rates_lie_evenly_by_ratio_between_the_first_layers_and_the_head() -> None:
    assert stage(lr=[1e-5, 1e-3]).rates == pytest.approx([1e-5, 1e-4, 1e-3])
    assert stage(lr=0.1, spread=4).rates == pytest.approx([0.025, 0.05, 0.1])
    assert stage().rates == pytest.approx([1e-3] * 3)
    assert (stage(lr="auto").rates, stage(lr="auto").suggestion) == (None, "valley")
    assert stage(lr="steepest").suggestion == "steepest"


def test_epochs_belong_to_stages() -> None:
    stages = [stage(epochs=2, image_size=64), stage(epochs=1), stage(epochs=3, image_size=96)]
    assert [stage_of(stages, epoch) for epoch in range(7)] == [(0, 0), (0, 0), (1, 2), *[(2, 3)] * 4]
    assert sizes_of_epochs(stages, 128) == [64, 64, 128, 96, 96, 96]
    assert sizes_of_epochs([stage(), stage(image_size=128)], 128) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, r"stages\[0\].epochs=0"),
        ({"freeze": "head"}, r"stages\[0\].freeze=head.*none, half, body"),
        ({"lr": 0}, r"stages\[0\].lr=0"),
        ({"lr": "fast"}, r"stages\[0\].lr=fast.*auto"),
        ({"lr": [1e-2, 1e-3]}, r"stages\[0\].lr=\[0.01, 0.001\]"),
        ({"lr": [1e-3]}, r"stages\[0\].lr=\[0.001\]"),
        ({"lr": [1e-3, 1e-2], "spread": 10}, r"stages\[0\].lr=.*no spread"),
        ({"spread": 0.5}, r"stages\[0\].spread=0.5"),
    ],
)
def test_a_stage_that_is_none_is_refused_by_name(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        stage(**given)
