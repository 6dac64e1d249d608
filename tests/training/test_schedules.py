from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cxr.errors import ConfigurationError
from cxr.training.optimizers import build_optimizer
from cxr.training.schedules import build_schedule


def _course(num_steps: int, *, optimizer: str = "adamw", **options: Any) -> tuple[list[float], list[float]]:
    """The rate and the momentum of every step that a run of this length takes."""
    weight = nn.Parameter(torch.zeros(2, 2))
    built = build_optimizer([{"params": [weight]}], name=optimizer, lr=0.1)
    schedule = build_schedule(built, num_steps, **options)
    rates, momenta = [], []
    for _ in range(num_steps):
        group = built.param_groups[0]
        rates.append(group["lr"])
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        weight.grad = torch.ones_like(weight)
        built.step()
        schedule.step()
    return rates, momenta


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_cycle_rises_and_falls_while_the_momentum_does_the_contrary(optimizer: str) -> None:
    rates, momenta = _course(100, optimizer=optimizer, name="one_cycle")
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 29
    assert rates[-1] == pytest.approx(0.1 / 25e4)
    assert momenta[0] == pytest.approx(0.95)
    assert momenta[29] == pytest.approx(0.85)
    assert momenta[-1] == pytest.approx(0.95)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("warmup_fraction", [0.1, 0.25, 0.3, 0.5])
def test_one_cycle_stands_trials_of_a_few_steps(num_steps: int, warmup_fraction: float) -> None:
    rates, _ = _course(num_steps, name="one_cycle", warmup_fraction=warmup_fraction)
    assert all(0 < rate <= 0.1 + 1e-9 for rate in rates)
    assert rates[0] == pytest.approx(0.1 / 25)


def test_cosine_warms_up_and_ends_at_nothing() -> None:
    rates, momenta = _course(100, name="cosine", warmup_fraction=0.1)
    assert rates[:10] == sorted(rates[:10])
    assert 0 < rates[0] < 0.02
    assert rates[10] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert len(set(momenta)) == 1


def test_constant_stays() -> None:
    rates, _ = _course(10, name="constant")
    assert set(rates) == {0.1}


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"name": "step"}, "schedule.name=step"),
        ({"warmup_fraction": 0.0}, "schedule.warmup_fraction=0"),
        ({"warmup_fraction": 1.0}, "schedule.warmup_fraction=1"),
        ({"name": "cosine", "warmup_fraction": -0.1}, "schedule.warmup_fraction=-0.1"),
        ({"div_factor": 0.0}, "schedule.div_factor=0"),
        ({"low_momentum": 0.9, "high_momentum": 0.8}, "schedule.low_momentum=0.9"),
    ],
)
def test_wrong_settings_are_refused_by_name(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        _course(10, **options)


def test_no_step_at_all_is_refused() -> None:
    optimizer = build_optimizer([{"params": [nn.Parameter(torch.zeros(1))]}])
    with pytest.raises(ConfigurationError, match="0 optimizer steps"):
        build_schedule(optimizer, 0)
