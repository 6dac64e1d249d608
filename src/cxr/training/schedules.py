"""How does the learning rate move from the first step to the last?"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from cxr.errors import ConfigurationError

SCHEDULES = ("one_cycle", "cosine", "constant")


def build_schedule(
    optimizer: Optimizer,
    total_steps: int,
    *,
    name: str = "one_cycle",
    warmup_fraction: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    low_momentum: float = 0.85,
    high_momentum: float = 0.95,
) -> LRScheduler:
    """Build a schedule that is stepped once per optimizer step; the optimizer's ``lr`` is its highest rate.

    Args:
        optimizer: AdamW or SGD; where the momentum cycles, beta1 or momentum is what moves.
        total_steps: optimizer steps in the whole run, > 0.
        name: ``one_cycle`` (Smith and Topin, "Super-Convergence", 2018: up from lr / div_factor, down by a cosine to
            lr / div_factor / final_div_factor, momentum the other way), ``cosine`` (Loshchilov and Hutter, "SGDR",
            2017, without restarts, after a linear warm-up) or ``constant``.
        warmup_fraction: one_cycle, cosine: share of the steps in which the rate rises; in (0, 1) for one_cycle and in
            [0, 1) for cosine.
        div_factor, final_div_factor: one_cycle: see above; > 0.
        low_momentum, high_momentum: one_cycle: momentum goes high -> low -> high; 0 <= low <= high < 1.

    Raises:
        ConfigurationError: an unknown name, or a number out of its range.
    """
    if name not in SCHEDULES:
        raise ConfigurationError(f"schedule.name={name}: give one of {', '.join(SCHEDULES)}")
    if total_steps < 1:
        raise ConfigurationError(f"schedule: {total_steps} optimizer steps are too few; raise trainer.max_epochs")
    if not 0 <= warmup_fraction < 1 or (name == "one_cycle" and warmup_fraction == 0):
        raise ConfigurationError(f"schedule.warmup_fraction={warmup_fraction}: give a share between 0 and 1")
    for key, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        if not value > 0:
            raise ConfigurationError(f"schedule.{key}={value}: give a number above 0")
    if not 0 <= low_momentum <= high_momentum < 1:
        raise ConfigurationError(
            f"schedule.low_momentum={low_momentum}, high_momentum={high_momentum}: give 0 <= low <= high < 1"
        )

    if name == "one_cycle":
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            # torch divides by the length of the rise less one step, which is zero or less in a trial of a few steps.
            # Such a trial gets the beginning of the shortest cycle that has a rise.
            total_steps=max(total_steps, math.floor(1 / warmup_fraction) + 2),
            pct_start=warmup_fraction,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            base_momentum=low_momentum,
            max_momentum=high_momentum,
        )
    if name == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)

    num_warmup = round(warmup_fraction * total_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        # The last step taken is total_steps - 1; it gets the lowest rate.
        progress = (step - num_warmup) / max(1, total_steps - 1 - num_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
