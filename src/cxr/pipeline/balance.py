"""What is done about classes of unequal size: which records does an epoch draw, and what does each class weigh?"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxr.errors import ConfigurationError, DataError

SAMPLERS: Final = ("none", "oversample", "balanced_batches", "repeat")
WEIGHTINGS: Final = ("none", "inverse_frequency", "effective_number")


def check_balance(sampler: str, weighting: str, *, beta: float, allow_both: bool) -> None:
    """Refuse unknown names, and an imbalance that would be corrected twice.

    Raises:
        ConfigurationError: also for a ``beta`` outside [0, 1).
    """
    for key, value, known in (("sampler", sampler, SAMPLERS), ("weighting", weighting, WEIGHTINGS)):
        if value not in known:
            nearest = difflib.get_close_matches(str(value), known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(known)}"
            raise ConfigurationError(f"balance.{key}: {value!r} is not known; {hint}")
    if not 0 <= beta < 1:
        raise ConfigurationError(f"balance.beta: {beta} is not from 0 to below 1")
    if sampler != "none" and weighting != "none" and not allow_both:
        raise ConfigurationError(
            f"balance: sampler={sampler} and weighting={weighting} correct the same imbalance twice; set one of them "
            "to none, or balance.allow_both=true"
        )


def class_weights(counts: Sequence[int], weighting: str, *, beta: float = 0.999) -> list[float] | None:
    """Weights for the loss, so that the mean over the training images is 1 and the learning rate keeps its meaning.

    ``inverse_frequency``: every class weighs as much as any other. ``effective_number``: a class of n images weighs
    like (1 - beta) / (1 - beta^n), since further images of a class repeat one another; beta = 0 weighs images alike,
    beta -> 1 is the inverse frequency (Cui, Jia, Lin, Song and Belongie 2019, "Class-Balanced Loss Based on Effective
    Number of Samples").

    Args:
        counts: (num_classes,) training images of each class.
        weighting: one of ``WEIGHTINGS``.
        beta: in [0, 1).

    Returns:
        (num_classes,) weights; None for ``none``.

    Raises:
        DataError: a class without a training image.
    """
    if weighting == "none":
        return None
    number = np.asarray(counts, np.float64)
    if (number < 1).any():
        raise DataError(
            f"balance.weighting={weighting}: a class has no training image (images per class: {list(counts)})"
        )
    if weighting == "inverse_frequency" or beta == 0:
        weights = 1 / number if weighting == "inverse_frequency" else np.ones_like(number)
    else:
        # 1 - beta^n, without losing digits where beta is close to 1.
        weights = 1 / -np.expm1(number * np.log(beta))
    weights *= number.sum() / (number * weights).sum()
    return [float(weight) for weight in weights]


def class_priors(counts: Sequence[int]) -> list[float]:
    """The share of each class in the training images.

    Args:
        counts: (num_classes,) training images of each class.

    Raises:
        DataError: a class without a training image.
    """
    if min(counts) < 1:
        raise DataError(
            f"loss.name=logit_adjusted: a class has no training image (images per class: {list(counts)}); use another "
            "loss, or leave the class out of data.classes"
        )
    return [count / sum(counts) for count in counts]


def epoch_length(labels: NDArray[np.int64], sampler: str) -> int:
    """How many images an epoch of ``sampler`` has, given the class of each record: N, or more with ``repeat``."""
    if sampler != "repeat" or not len(labels):
        return len(labels)
    _, counts = np.unique(labels, return_counts=True)
    return len(counts) * int(counts.max())


def draw(
    labels: NDArray[np.int64],
    sampler: str,
    num_draws: int,
    batch_size: int,
    rng: np.random.Generator,
    *,
    epoch: int = 0,
) -> NDArray[np.int64]:
    """Positions of the records that one epoch sees, in its order.

    ``none``: each at most once. ``oversample``: with replacement, each class equally often on average.
    ``balanced_batches``: each run of ``batch_size`` positions holds the classes in equal numbers, a remainder going to
    each class in turn; a class comes round again only when all of its records have been drawn. ``repeat``: the records
    of the largest class once, those of a smaller one so often that the classes are equal; where that does not divide,
    some are drawn once more than the others, and these are others in each epoch, until all had their turn.

    Args:
        labels: (N,) class of each record, 0 to C - 1.
        sampler: one of ``SAMPLERS``.
        num_draws: length of the result; at most `epoch_length` for ``none`` and ``repeat``.
        batch_size: at least 1.
        epoch: 0 or more; it decides for ``repeat`` whose turn it is.

    Returns:
        (num_draws,) positions in ``labels``.
    """
    if sampler == "none":
        return rng.permutation(len(labels))[:num_draws]
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if sampler == "oversample":
        probability = 1 / (counts * len(classes))
        return rng.choice(len(labels), num_draws, p=probability[codes])
    if sampler == "repeat":
        parts = [_repeated(np.flatnonzero(codes == number), int(counts.max()), epoch) for number in range(len(classes))]
        return rng.permutation(np.concatenate(parts))[:num_draws]

    num_batches = -(-num_draws // batch_size)
    # Class of each draw: within a batch all classes in turn; the next batch starts where the last one stopped.
    turns = (np.arange(num_batches * batch_size) + rng.integers(len(classes))) % len(classes)
    turns = turns[:num_draws]
    drawn = np.empty(num_draws, np.int64)
    for number in range(len(classes)):
        own = np.flatnonzero(codes == number)
        places = np.flatnonzero(turns == number)
        rounds = -(-len(places) // len(own))
        drawn[places] = np.concatenate([rng.permutation(own) for _ in range(rounds)] or [own])[: len(places)]
    return drawn


def _repeated(records: NDArray[np.int64], total: int, epoch: int) -> NDArray[np.int64]:
    """``total`` positions, each of ``records`` (n,) equally often but for one."""
    rounds, rest = divmod(total, len(records))
    # Those that come once more lie evenly over the records, so that they are of many patients, and move on by one with
    # each epoch: after n epochs every record had as many turns as any other.
    turns = (epoch + np.arange(rest) * len(records) // max(rest, 1)) % len(records)
    return np.concatenate([np.tile(records, rounds), records[turns]])
