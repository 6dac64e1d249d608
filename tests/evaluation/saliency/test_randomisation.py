from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats

from cxr.evaluation.saliency.grad_cam import signed_maps
from cxr.evaluation.saliency.randomisation import LIMIT, randomisation_check, randomised_network, rank_correlations
from cxr.training.module import CXRModule

GROUPS = [f"p{number}" for number in range(8)]


def pictures(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Noise with a bright spot (class 0) or a dark one (class 1), (N, 1, 160, 160)."""
    grey = generator.normal(110, 8, (len(labels), 1, 160, 160))
    for image, label in zip(grey, labels, strict=True):
        row, column = generator.integers(0, 160 - 32, 2)
        image[0, row : row + 32, column : column + 32] += -90 if label else 100
    return grey.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def trained() -> CXRModule:
    """Random features; a classifier that was fitted to tell the two kinds of spots apart."""
    torch.manual_seed(0)
    names = ["bright", "dark"]
    module = CXRModule("test_resnet", class_names=names, positive="dark", image_size=160, pretrained=False).eval()
    labels = np.array([0, 1] * 8)
    network = module.network
    with torch.no_grad():
        for values in (*network.parameters(), *network.buffers()):
            if values.is_floating_point():  # a normalisation, too, has left its start
                values += 0.05 * torch.rand_like(values)
        grey = torch.from_numpy(pictures(np.random.default_rng(0), labels))[:, 0, :, :, None].float()
        pixels = torch.addcmul(module.pixel_offset, grey, module.pixel_scale).permute(0, 3, 1, 2)
        features = network.forward_head(network.forward_features(pixels), pre_logits=True)
        answers = torch.eye(2)[torch.from_numpy(labels)]
        network.get_classifier().weight.copy_(torch.linalg.lstsq(features, answers, driver="gelsd").solution.T)
    return module


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return pictures(np.random.default_rng(1), np.array([0, 1] * 4))


def test_an_unrandomised_copy_gives_the_same_maps(trained: CXRModule, images: np.ndarray) -> None:
    maps = signed_maps(trained, images, "dark")
    for network in (copy.deepcopy(trained.network), randomised_network(trained, layers=0, seed=0)):
        again = signed_maps(trained, images, "dark", network=network)
        np.testing.assert_allclose(rank_correlations(maps, again), 1.0)


def test_randomised_weights_change_the_maps_and_nothing_of_the_module(trained: CXRModule, images: np.ndarray) -> None:
    before = copy.deepcopy(trained.state_dict())
    generator_state = torch.get_rng_state()
    found = randomisation_check(trained, images, GROUPS, "dark", num_draws=2)
    after = trained.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not trained.training
    assert torch.equal(torch.get_rng_state(), generator_state)

    correlation = found["correlation"]
    assert (correlation["n"], correlation["patients"]) == (8, 8)
    assert -1 <= correlation["low"] <= correlation["value"] <= correlation["high"] <= 1
    assert correlation["high"] < LIMIT
    assert found["passed"] is True
    assert found["cascade"][0]["layers"] == 1
    assert found["grid"] == [5, 5]
    assert found["cascade"][-1]["layers"] == found["cascade"][-1]["of"]


def test_maps_that_do_not_hang_on_the_weights_fail(trained: CXRModule, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where every network is given the same features whatever its weights are, the edges of the picture alone decide.
    images = pictures(np.random.default_rng(1), np.array([0, 1] * 4))

    def of_the_picture(self: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 32).abs().repeat(1, 100, 1, 1)[:, : self.num_features]

    monkeypatch.setattr(type(trained.network), "forward_features", of_the_picture)
    found = randomisation_check(trained, images, GROUPS, "dark", num_draws=2)
    assert found["correlation"]["value"] > LIMIT
    assert found["passed"] is False


def test_layers_are_randomised_from_the_classifier_down(trained: CXRModule) -> None:
    own = trained.network.state_dict()

    def changed(layers: int) -> set[str]:
        state = randomised_network(trained, layers=layers, seed=0).state_dict()
        return {name.rpartition(".")[0] for name in own if not torch.equal(own[name], state[name])}

    assert changed(0) == set()
    assert changed(1) == {"fc"}
    assert not any(name.startswith("conv1") for name in changed(3))
    num_layers = len({name.rpartition(".")[0] for name in own})
    assert len(changed(num_layers)) == num_layers


def test_random_starts_follow_from_the_seed(trained: CXRModule) -> None:
    one, same, other = (
        randomised_network(trained, layers=1, seed=seed).state_dict()["fc.weight"] for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_correlation_is_that_of_the_absolute_ranks() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 4, 4))
    others = maps * -2.0
    others[1] = 5.0
    found = rank_correlations(maps, others)
    assert found[[0, 2]] == pytest.approx([1.0, 1.0])
    assert np.isnan(found[1])
    mixed = np.random.default_rng(1).normal(size=(1, 4, 4))
    expected = stats.spearmanr(np.abs(maps[0]).ravel(), np.abs(mixed[0]).ravel()).statistic
    assert rank_correlations(maps[:1], mixed)[0] == pytest.approx(expected)


def test_random_starts_are_not_the_one_that_a_training_of_the_same_seed_had() -> None:
    torch.manual_seed(0)
    module = CXRModule("test_resnet", class_names=["a", "b"], positive="a", image_size=64, pretrained=False)
    again = randomised_network(module, layers=1000, seed=0).state_dict()["fc.weight"]
    assert not torch.equal(again, module.network.state_dict()["fc.weight"])
