from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from cxr.errors import ConfigurationError
from cxr.training.optimizers import build_optimizer
from cxr.training.schedules import StagedSchedule
from cxr.training.stage_plan import build_stages


def _course(
    num_steps: int, *, optimizer: str = "adamw", name: str = "one_cycle", **options: Any
) -> tuple[list[float], list[float]]:
    """The rate and the momentum of every step that a run of this length takes."""
    weight = nn.Parameter(torch.zeros(2, 2))
    built = build_optimizer([{"params": [weight]}], name=optimizer, lr=0.1)
    schedule = StagedSchedule(built, build_stages([{"epochs": 1}], lr=0.1, schedule=name), num_steps, **options)
    return _walk(built, schedule, num_steps)


def _walk(
    optimizer: torch.optim.Optimizer, schedule: LRScheduler, num_steps: int, group: int = 0
) -> tuple[list[float], list[float]]:
    rates, momenta = [], []
    for _ in range(num_steps):
        settings = optimizer.param_groups[group]
        rates.append(settings["lr"])
        momenta.append(settings["betas"][0] if "betas" in settings else settings["momentum"])
        for each in optimizer.param_groups:
            for weight in each["params"]:
                weight.grad = torch.ones_like(weight)
        optimizer.step()
        schedule.step()
    return rates, momenta


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("num_steps", [7, 100])
def test_one_cycle_is_torch_s_own(optimizer: str, num_steps: int) -> None:
    rates, momenta = _course(num_steps, optimizer=optimizer)
    other = build_optimizer([{"params": [nn.Parameter(torch.zeros(2, 2))]}], name=optimizer, lr=0.1)
    theirs = OneCycleLR(other, 0.1, total_steps=num_steps)
    expected = _walk(other, theirs, num_steps - 1)
    assert rates[:-1] == pytest.approx(expected[0], rel=1e-9)
    assert momenta[:-1] == pytest.approx(expected[1], rel=1e-9)


def test_every_stage_has_a_course_of_its_own() -> None:
    groups = [
        {"params": [nn.Parameter(torch.zeros(2, 2))], "layer_group": 0},
        {"params": [nn.Parameter(torch.zeros(2, 2))], "layer_group": 2},
    ]
    stages = build_stages(
        [
            {"epochs": 2, "lr": 1e-2},
            {"epochs": 3, "lr": [1e-5, 1e-3], "schedule": "cosine"},
            {"epochs": 1, "lr": 1e-1, "spread": 100, "schedule": "constant"},
        ],
        lr=0.5,
        schedule="one_cycle",
    )
    for group, highest in ((0, [1e-2, 1e-5, 1e-3]), (1, [1e-2, 1e-3, 1e-1])):
        optimizer = build_optimizer([{**each} for each in groups], lr=0.5)
        schedule = StagedSchedule(optimizer, stages, 20, warmup_fraction=0.25)
        rates, momenta = _walk(optimizer, schedule, 120, group)
        parts = [rates[:40], rates[40:100], rates[100:]]
        assert [max(part) for part in parts] == pytest.approx(highest)
        alone = [_alone(40, "one_cycle"), _alone(60, "cosine"), _alone(20, "constant")]
        for part, course, top in zip(parts, alone, highest, strict=True):
            assert part == pytest.approx([rate / 0.1 * top for rate in course])
        assert (min(momenta[:40]), set(momenta[40:])) == (pytest.approx(0.85), {0.9})
        course = schedule.course(20)
        assert [row["lr_first" if group == 0 else "lr"] for row in course] == pytest.approx(rates)
        assert [row["stage"] for row in course] == [1] * 40 + [2] * 60 + [3] * 20
        assert [row["epoch"] for row in schedule.course(4)][:6] == [0, 0.25, 0.5, 0.75, 1, 1.25]


def _alone(num_steps: int, name: str) -> list[float]:
    return _course(num_steps, name=name, warmup_fraction=0.25)[0]


def test_a_rate_that_is_found_later_holds_and_is_remembered() -> None:
    stages = build_stages([{"epochs": 1, "lr": "auto", "spread": 4, "schedule": "constant"}], lr=0.5, schedule="cosine")
    weights = [{"params": [nn.Parameter(torch.zeros(2))], "layer_group": number} for number in range(3)]
    schedule = StagedSchedule(build_optimizer(weights, lr=0.5), stages, 10)
    schedule.set_rates(0, stages[0].spread_below(0.08))
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.02, 0.04, 0.08])
    _walk(schedule.optimizer, schedule, 3)
    again = StagedSchedule(build_optimizer(weights, lr=0.5), stages, 10)
    again.load_state_dict(schedule.state_dict())
    assert [group["lr"] for group in again.optimizer.param_groups] == pytest.approx([0.02, 0.04, 0.08])
    assert again.last_epoch == 3


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
        StagedSchedule(optimizer, build_stages([{"epochs": 1}], lr=0.1, schedule="cosine"), 0)
