"""Of which stages does a training consist?  Read before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cxr.errors import ConfigurationError

FREEZES = ("none", "half", "body")
"""What may stay as it is: nothing, the first half of the body, the whole body. The place is the number of groups."""
NUM_GROUPS = 3
FOUND = {"auto": "valley", "valley": "valley", "steepest": "steepest"}
"""What may stand in place of a rate -> the suggestion of `cxr.training.lr_finder` that is taken."""


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Attributes:
        epochs: how long it is, > 0.
        rates: the highest rates of the layer groups, from the first to the head; None: they are found when it begins.
        suggestion: which of those that are found is taken: valley or steepest.
        spread: the rate of the head over that of the first half of the body; those between lie evenly by ratio.
        schedule: the course of the rates, see `cxr.training.schedules`.
        freeze: one of `FREEZES`.
        freeze_batch_norm: whether batch norms of frozen layers are frozen, too: scales, offsets and statistics.
        image_size: side of the training images, pixels; None: that of the validation.
    """

    epochs: int
    rates: list[float] | None
    suggestion: str = "valley"
    spread: float = 1.0
    schedule: str = "one_cycle"
    freeze: str = "none"
    freeze_batch_norm: bool = False
    image_size: int | None = None

    @property
    def discriminates(self) -> bool:
        """Whether its layer groups are not all treated alike."""
        return self.freeze != "none" or self.spread != 1

    def spread_below(self, lr: float) -> list[float]:
        """The rates of the layer groups where that of the head is ``lr``."""
        return [lr * self.spread ** (group / (NUM_GROUPS - 1) - 1) for group in range(NUM_GROUPS)]


def build_stages(stages: Sequence[Mapping[str, Any]], *, lr: float, schedule: str) -> list[Stage]:
    """Read the stages of a training.

    Args:
        stages: of each ``epochs``, and where they differ from the run's ``lr`` (a rate, [low, high], or one of
            `FOUND`), ``schedule``, ``spread`` (of a single rate), ``freeze``, ``freeze_batch_norm``, ``image_size``.
        lr, schedule: those of the run.

    Raises:
        ConfigurationError: a stage of no epochs, an unknown way of freezing, or rates that are none.
    """
    return [_stage(f"schedule.stages[{number}]", given, lr, schedule) for number, given in enumerate(stages)]


def _stage(place: str, given: Mapping[str, Any], lr: float, schedule: str) -> Stage:
    freezes, spread = given.get("freeze", "none"), float(given.get("spread", 1.0))
    if int(given["epochs"]) < 1:
        raise ConfigurationError(f"{place}.epochs={given['epochs']}: give at least 1")
    if freezes not in FREEZES:
        raise ConfigurationError(f"{place}.freeze={freezes}: give one of {', '.join(FREEZES)}")
    if not spread >= 1:
        raise ConfigurationError(f"{place}.spread={spread}: give 1 or more")
    wanted = lr if given.get("lr") is None else given["lr"]
    suggestion = "valley"
    if isinstance(wanted, str):
        if wanted not in FOUND:
            raise ConfigurationError(f"{place}.lr={wanted}: give a rate, two ([low, high]), or {', '.join(FOUND)}")
        suggestion = FOUND[wanted]
    elif isinstance(wanted, (list, tuple)):
        if spread != 1 or len(wanted) != 2 or not 0 < wanted[0] <= wanted[1]:
            raise ConfigurationError(f"{place}.lr={list(wanted)}: give [low, high], both above 0, and no spread")
        spread = float(wanted[1] / wanted[0])
        wanted = wanted[1]
    elif not wanted > 0:
        raise ConfigurationError(f"{place}.lr={wanted}: give a rate above 0")
    stage = Stage(
        epochs=int(given["epochs"]),
        rates=None,
        suggestion=suggestion,
        spread=spread,
        schedule=schedule if given.get("schedule") is None else str(given["schedule"]),
        freeze=str(freezes),
        freeze_batch_norm=bool(given.get("freeze_batch_norm", False)),
        image_size=given.get("image_size"),
    )
    return stage if isinstance(wanted, str) else replace(stage, rates=stage.spread_below(float(wanted)))


def stage_of(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    """The number of the stage that an epoch belongs to, and its first epoch, all counted from 0."""
    first = 0
    for number, stage in enumerate(stages):
        if epoch < first + stage.epochs or number == len(stages) - 1:
            return number, first
        first += stage.epochs
    raise ValueError("no stages")


def sizes_of_epochs(stages: Sequence[Stage], image_size: int) -> list[int] | None:
    """Side of the training images of every epoch, pixels; None where no stage asks for another than the run's."""
    if all(stage.image_size in (None, image_size) for stage in stages):
        return None
    return [stage.image_size or image_size for stage in stages for _ in range(stage.epochs)]
