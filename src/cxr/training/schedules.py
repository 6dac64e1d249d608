"""How do the learning rates move from the first step to the last, stage by stage?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cxr.errors import ConfigurationError
from cxr.training.stage_plan import Stage

SCHEDULES = ("one_cycle", "cosine", "constant")


class StagedSchedule(LRScheduler):
    """Moves the rates once per optimizer step; each stage runs through a course of its own.

    Within a stage every group of parameters has a highest rate, and all follow the same course below it:

    - ``one_cycle`` (Smith and Topin, "Super-Convergence", 2018): up from the highest / div_factor by half a cosine,
      down to the highest / div_factor / final_div_factor; momentum (beta1) goes the other way, high -> low -> high;
    - ``cosine`` (Loshchilov and Hutter, "SGDR", 2017, without restarts): a linear rise, then half a cosine to 0;
    - ``constant``.

    Args:
        optimizer: AdamW or SGD. A group with the key ``layer_group`` gets the rate of that layer group; one without
            gets the last.
        stages: in their order; rates of a stage may be unknown until it begins, see `set_rates`.
        steps_per_epoch: optimizer steps, > 0.
        warmup_fraction: one_cycle, cosine: share of the steps of a stage in which the rate rises; in (0, 1) for
            one_cycle and in [0, 1) for cosine.
        div_factor, final_div_factor: one_cycle: see above; > 0.
        low_momentum, high_momentum: one_cycle: 0 <= low <= high < 1.

    Raises:
        ConfigurationError: an unknown name, or a number out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        stages: Sequence[Stage],
        steps_per_epoch: int,
        *,
        warmup_fraction: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        low_momentum: float = 0.85,
        high_momentum: float = 0.95,
    ) -> None:
        for stage in stages:
            if stage.schedule not in SCHEDULES:
                raise ConfigurationError(f"schedule.name={stage.schedule}: give one of {', '.join(SCHEDULES)}")
            if not 0 <= warmup_fraction < 1 or (stage.schedule == "one_cycle" and warmup_fraction == 0):
                raise ConfigurationError(f"schedule.warmup_fraction={warmup_fraction}: give a share between 0 and 1")
        if steps_per_epoch < 1 or not stages:
            raise ConfigurationError(
                f"schedule: {steps_per_epoch * len(stages)} optimizer steps are too few; raise trainer.max_epochs"
            )
        for key, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not value > 0:
                raise ConfigurationError(f"schedule.{key}={value}: give a number above 0")
        if not 0 <= low_momentum <= high_momentum < 1:
            raise ConfigurationError(
                f"schedule.low_momentum={low_momentum}, high_momentum={high_momentum}: give 0 <= low <= high < 1"
            )
        self._stages = tuple(stages)
        self._steps_per_epoch = steps_per_epoch
        self._steps = [stage.epochs * steps_per_epoch for stage in stages]
        self._warmup = warmup_fraction
        self._div, self._final_div = div_factor, final_div_factor
        self._momenta = (low_momentum, high_momentum)
        self._own_momenta = [_momentum_of(group) for group in optimizer.param_groups]
        # The rates of each stage, of the layer groups from the first to the head; None until they are known.
        self.rates: list[list[float] | None] = [stage.rates for stage in stages]
        super().__init__(optimizer)

    def set_rates(self, stage: int, rates: Sequence[float]) -> None:
        """Give a stage its highest rates, found when it began; they hold from the step that comes next.

        Args:
            stage: its number, from 0.
            rates: of the layer groups, from the first to the head.
        """
        self.rates[stage] = [float(rate) for rate in rates]
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, and the rates that were found, in plain types."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count, "rates": self.rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stands."""
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        self.rates = list(state_dict["rates"])
        self._apply()

    def get_lr(self) -> list[float | Any]:
        """The rates of the step that comes next, and its momenta, which stand in the optimizer already."""
        stage, step = self._where(self.last_epoch)
        name, total = self._stages[stage].schedule, self._steps[stage]
        factor, towards_low = self._course(name, step, total)
        low, high = self._momenta
        for group, own in zip(self.optimizer.param_groups, self._own_momenta, strict=True):
            momentum = own if towards_low is None else high + (low - high) * towards_low
            _set_momentum(group, momentum)
        # A stage whose rates are not known yet takes no step: they are set when it begins.
        rates = self.rates[stage] or [group["initial_lr"] for group in self.optimizer.param_groups]
        return [rates[group.get("layer_group", len(rates) - 1)] * factor for group in self.optimizer.param_groups]

    def course(self, num_points: int) -> list[dict[str, float]]:
        """The rates of the steps that are done, as they were: some of every epoch, evenly apart.

        Args:
            num_points: of an epoch, at most.

        Returns:
            A row for each: ``epoch``, those that are done by then, with a fraction; ``stage``, counted from 1; ``lr``,
            of the head; and ``lr_first``, of the first layers.
        """
        stride, rows = max(1, math.ceil(self._steps_per_epoch / num_points)), []
        for done in range(self.last_epoch):
            if (done % self._steps_per_epoch) % stride == 0:
                stage, step = self._where(done)
                factor, _ = self._course(self._stages[stage].schedule, step, self._steps[stage])
                rates = self.rates[stage] or [math.nan]
                epoch = round(done / self._steps_per_epoch, 4)
                rows.append(
                    {"epoch": epoch, "stage": stage + 1, "lr": rates[-1] * factor, "lr_first": rates[0] * factor}
                )
        return rows

    def _where(self, done: int) -> tuple[int, int]:
        """The stage of the step that comes after so many, and how many steps of it are done."""
        for stage, steps in enumerate(self._steps):
            if done < steps or stage == len(self._steps) - 1:
                return stage, min(done, steps - 1)
            done -= steps
        raise AssertionError("a schedule has a stage")

    def _course(self, name: str, step: int, total: int) -> tuple[float, float | None]:
        """Share of the highest rate, and how far the momentum is from high (0) to low (1); None: it is not moved."""
        if name == "constant":
            return 1.0, None
        if name == "cosine":
            num_warmup = round(self._warmup * total)
            if step < num_warmup:
                return (step + 1) / (num_warmup + 1), None
            # The last step taken is total - 1; it gets the lowest rate.
            progress = (step - num_warmup) / max(1, total - 1 - num_warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress))), None
        # A rise of no step is none. A trial of a few steps gets the beginning of the shortest cycle that has a rise.
        total = max(total, math.floor(1 / self._warmup) + 2)
        top = self._warmup * total - 1
        if step <= top:
            return _cosine(1 / self._div, 1.0, step / top), _cosine(0.0, 1.0, step / top)
        progress = (step - top) / (total - 1 - top)
        return _cosine(1.0, 1 / self._div / self._final_div, progress), _cosine(1.0, 0.0, progress)

    def _apply(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def _momentum_of(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum
