"""Which learning rate suits this network and these data?  A range test, and what its curve suggests.

Smith, "Cyclical Learning Rates for Training Neural Networks" (2017): the rate rises from step to step, and the loss
shows from where on it falls and from where on it blows up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_BETA = 0.98  # of the moving average of the loss
_BLOWN_UP = 4.0  # times the lowest loss so far
# Losses that only vary, 50 to 400 steps of them, seem to fall by more than this many standard deviations of a batch in
# about one range test of a hundred (simulated).
_WANDERS = 1.0
_LEAST = 0.01  # share of the loss below which a fall is none
_PLATEAU = 0.1  # share of a fall that belongs to the plateau before it
_SKIPPED_FIRST, _SKIPPED_LAST = 0.1, 5  # share of the curve at its start, steps at its end: noise and the explosion


@dataclass(frozen=True, eq=False)
class LrCurve:
    """What a range test saw.

    Attributes:
        rates: (N,) of the steps, rising.
        losses: (N,) of the batches, as far as the training moved them: less what the untouched network loses on the
            same batch, plus what it loses on all of them in the mean.
        smoothed: (N,) their moving average, from which suggestions come.
        valley: half way, in the logarithm of the rate, along the longest falling subsequence of the average, without
            the plateau before it; None where the curve suggests nothing.
        steepest: where the average falls fastest along the logarithm of the rate, up to the end of that fall.
        useless: why the curve suggests nothing; empty where it does.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    valley: float | None
    steepest: float | None
    useless: str = ""

    def suggestion(self, name: str) -> float | None:
        """``valley`` or ``steepest``."""
        found: float | None = {"valley": self.valley, "steepest": self.steepest}[name]
        return found


def range_test(
    network: nn.Module,
    loss_of: Callable[[Any], Tensor],
    batches: Iterable[Any],
    build_optimizer: Callable[[], torch.optim.Optimizer],
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    num_steps: int = 100,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> LrCurve:
    """Train for some steps under a rising rate, and put everything back as it was.

    A batch is hard or easy whatever the rate, and of few images more so than all that a rate does to it. So each batch
    is also given to the network as it was at the beginning, with the same random numbers (what is called common random
    numbers in simulation), and what counts is the difference.

    Weights, statistics, gradients, modes and the random generators are afterwards what they were before.

    Args:
        network: whose weights move.
        loss_of: the loss of a batch.
        batches: at least ``num_steps`` of them; it ends sooner where the loss has blown up.
        build_optimizer: of the parameters that are to move, called once; its rates are kept in their ratio to the
            highest of them.
        lowest, highest: rates of the first and the last step, 0 < lowest < highest.
        num_steps: at least 2.
        context: makes that in which a loss is computed, as for mixed precision.
    """
    kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    modes = {name: module.training for name, module in network.named_modules()}
    devices = sorted({p.device.index or 0 for p in network.parameters() if p.device.type == "cuda"})
    rates, losses, untouched = [], [], []
    with torch.random.fork_rng(devices=devices):
        for parameter in network.parameters():
            parameter.grad = None
        try:
            optimizer = build_optimizer()
            shares = [group["lr"] for group in optimizer.param_groups]
            shares = [share / max(shares) for share in shares]
            for step, batch in zip(range(num_steps), batches, strict=False):
                rate = lowest * (highest / lowest) ** (step / (num_steps - 1))
                for group, share in zip(optimizer.param_groups, shares, strict=True):
                    group["lr"] = rate * share
                untouched.append(_loss_with(kept, network, loss_of, batch, devices, context))
                with context():
                    loss = loss_of(batch)
                value = float(loss.detach())
                rates.append(rate)
                losses.append(value)
                if not math.isfinite(value) or (step > 0 and smooth(losses)[-1] > _BLOWN_UP * min(smooth(losses))):
                    break
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        finally:
            network.load_state_dict(kept)
            for name, parameter in network.named_parameters():
                parameter.grad = gradients[name]
            for name, module in network.named_modules():
                module.training = modes[name]
    without = np.array(untouched)
    return read_curve(np.array(rates), np.array(losses) - without + without.mean())


def _loss_with(
    weights: Mapping[str, Tensor],
    network: nn.Module,
    loss_of: Callable[[Any], Tensor],
    batch: Any,
    devices: Sequence[int],
    context: Callable[[], AbstractContextManager[Any]],
) -> float:
    """The loss of a batch under other weights; the network and the random generators come out as they went in."""
    now = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices), context():
            return float(loss_of(batch))
    finally:
        network.load_state_dict(now)


def read_curve(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> LrCurve:
    """What a curve of losses (N,) over rising rates (N,) suggests."""
    smoothed = smooth(losses)
    first = int(_SKIPPED_FIRST * len(rates))
    last = max(first, len(rates) - _SKIPPED_LAST)
    inner = smoothed[first:last]
    if len(inner) < 3 or not np.isfinite(inner).all():
        return LrCurve(rates, losses, smoothed, None, None, f"the loss blew up after {len(rates)} steps")
    start, end = _longest_fall(inner)
    fall = float(inner[start] - inner[end])
    # Two losses that only vary differ by 1.35 / sqrt(2) of a standard deviation in the median.
    noise = 1.05 * float(np.median(np.abs(np.diff(losses[: first + end + 1]))))
    if fall <= max(_WANDERS * noise, _LEAST * abs(float(inner[start]))):
        return LrCurve(
            rates, losses, smoothed, None, None,
            f"the loss falls by {fall:.2g} only, and varies by {noise:.2g} from batch to batch",
        )  # fmt: skip
    # On a plateau an average falls a little by chance, and the fall would seem to begin decades too soon.
    begun = int(np.flatnonzero(inner[: end + 1] >= inner[start] - _PLATEAU * fall)[-1])
    valley = float(rates[first + (begun + end) // 2])
    slope = np.gradient(inner[: end + 1], np.log(rates[first : first + end + 1]))
    steepest = float(rates[first + int(np.argmin(slope))])
    return LrCurve(rates, losses, smoothed, valley, steepest)


def smooth(losses: Mapping[int, float] | Iterable[float]) -> NDArray[np.float64]:
    """Exponential moving average of (N,) losses, each over what was seen so far."""
    average, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = _BETA * average + (1 - _BETA) * loss
        smoothed.append(average / (1 - _BETA**step))
    return np.array(smoothed, np.float64)


def _longest_fall(values: NDArray[np.float64]) -> tuple[int, int]:
    """First and last place of the longest falling subsequence of (N,) values."""
    length, start = np.ones(len(values), np.int64), np.arange(len(values))
    for place in range(1, len(values)):
        longer = np.flatnonzero(values[:place] > values[place])
        if len(longer):
            before = longer[np.argmax(length[longer])]
            length[place], start[place] = length[before] + 1, start[before]
    end = int(np.argmax(length))
    return int(start[end]), end
