"""Does a range test find a rate that trains, leave everything as it was, and say so where it finds none?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cxr.evaluation.range_test_figure import draw_range_test, write_range_test
from cxr.training.lr_finder import LrCurve, range_test, read_curve, smooth
from cxr.training.module import CXRModule


def _test(network: nn.Module, *, noise: float = 0.0, batch_norm_first: bool = False, **options: Any) -> LrCurve:
    """On points that a line divides, or on labels that are noise."""
    generator = torch.Generator().manual_seed(0)

    def batches() -> Any:
        while True:
            x = torch.randn(32, 8, generator=generator)
            y = (x[:, 0] > 0).long() if not noise else torch.randint(0, 2, (32,), generator=generator)
            yield x, y

    return range_test(
        network,
        lambda batch: nn.functional.cross_entropy(network(batch[0]), batch[1]),
        batches(),
        lambda: torch.optim.SGD(network.parameters(), lr=1.0),
        **options,
    )


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


def test_the_suggested_rate_trains_and_a_hundredth_of_it_hardly_does() -> None:
    curve = _test(_network())
    assert curve.useless == ""
    assert curve.valley is not None
    assert curve.steepest is not None

    def after_training(lr: float) -> float:
        network = _network()
        optimizer = torch.optim.SGD(network.parameters(), lr=lr)
        generator = torch.Generator().manual_seed(1)
        for _ in range(30):
            x = torch.randn(32, 8, generator=generator)
            loss = nn.functional.cross_entropy(network(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss)

    assert after_training(curve.valley) < 0.8 * after_training(curve.valley / 100)


def test_everything_is_afterwards_what_it_was() -> None:
    network = _network()
    network[1].eval()
    parameter = network[0].weight
    parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    _test(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert (network.training, network[1].training) == (True, False)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.random.get_state()[1].tolist() == generators[1]  # noqa: NPY002


def test_it_ends_where_the_loss_blows_up() -> None:
    curve = _test(_network(), highest=1e6, num_steps=200)
    assert len(curve.rates) < 200
    assert curve.smoothed[-1] > 4 * curve.smoothed.min() or not np.isfinite(curve.losses[-1])
    assert curve.valley is not None
    assert curve.valley < 10


def test_groups_keep_the_ratio_of_their_rates() -> None:
    network = nn.Linear(2, 2)
    seen: list[tuple[float, float]] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(tuple(group["lr"] for group in self.param_groups))  # type: ignore[arg-type]
            return super().step(closure)

    range_test(
        network,
        lambda batch: network(batch).square().mean(),
        itertools.repeat(torch.ones(1, 2)),
        lambda: Watched([{"params": [network.weight], "lr": 0.01}, {"params": [network.bias], "lr": 0.1}]),
        lowest=1e-6,
        highest=1e-2,
        num_steps=20,
    )
    assert [high for _, high in seen] == pytest.approx(np.geomspace(1e-6, 1e-2, 20))
    assert [low / high for low, high in seen] == pytest.approx([0.1] * 20)


def test_easy_and_hard_batches_do_not_pass_for_good_and_bad_rates() -> None:
    network = _network()
    generator = torch.Generator().manual_seed(0)

    def batches() -> Any:
        while True:
            x = torch.randn(4, 8, generator=generator)
            wrong = torch.rand(1, generator=generator) < 0.5  # half of the batches are labelled the other way round
            yield x, ((x[:, 0] > 0) ^ wrong).long()

    curve = range_test(
        network,
        lambda batch: nn.functional.cross_entropy(network(batch[0]), batch[1]),
        batches(),
        lambda: torch.optim.SGD(network.parameters(), lr=1.0),
    )
    drawn = itertools.islice(batches(), 40)
    raw = np.array([nn.functional.cross_entropy(network(x), y).item() for x, y in drawn])
    assert np.ptp(curve.losses[:40]) < 0.1 * np.ptp(raw), "rates that change nothing leave the curve level"


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_only_varies_suggests_nothing_and_says_so(seed: int) -> None:
    losses = np.random.default_rng(seed).normal(0.7, 0.1, 100)
    curve = read_curve(np.geomspace(1e-7, 10, 100), losses)
    assert (curve.valley, curve.steepest) == (None, None)
    assert "varies" in curve.useless


def test_a_loss_that_rises_from_the_start_suggests_nothing() -> None:
    rates = np.geomspace(1e-7, 10, 60)
    assert read_curve(rates, np.linspace(0.7, 9, 60)).useless
    assert "blew up" in read_curve(rates[:3], np.array([0.7, np.inf, np.nan])).useless


def test_the_average_is_over_what_was_seen() -> None:
    assert smooth([3.0] * 7) == pytest.approx([3.0] * 7)
    weights = 0.98 ** np.arange(4)[::-1]
    assert smooth([1.0, 2.0, 5.0, 3.0])[-1] == pytest.approx((weights * [1, 2, 5, 3]).sum() / weights.sum())


def test_the_curve_is_drawn_and_written(tmp_path: Path) -> None:
    curve = _test(_network())
    draw_range_test(curve, tmp_path / "found.png", "a network")
    draw_range_test(read_curve(curve.rates, np.full(len(curve.rates), 0.7)), tmp_path / "none.png", "a network")
    drawn = [np.asarray(Image.open(tmp_path / name)) for name in ("found.png", "none.png")]
    assert all(len(np.unique(each.reshape(-1, each.shape[2]), axis=0)) > 50 for each in drawn)
    write_range_test(curve, tmp_path / "curve.csv")
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == len(curve.rates) + 1


def test_the_loss_of_a_module_is_that_of_its_training(make_module: Callable[..., CXRModule]) -> None:
    module = make_module()
    images = torch.randint(0, 256, (8, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = {"image": images, "label": torch.tensor([0, 1] * 4)}
    curve = range_test(
        module.network,
        lambda each: module.training_loss(module(each["image"]), each["label"]),
        itertools.repeat(batch),
        lambda: torch.optim.AdamW(module.parameters(), lr=1.0),
        num_steps=40,
    )
    assert curve.losses[0] == pytest.approx(float(module.training_loss(module(images), batch["label"])), rel=1e-5)
    assert curve.losses.min() < curve.losses[0] - 0.1
