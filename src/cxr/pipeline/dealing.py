"""How are whole units dealt into parts, so that each part gets its share of every class?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxr.errors import DataError

_ATTEMPTS: Final = 50


def apportion(
    units: NDArray[np.object_], labels: NDArray[np.object_], fractions: Sequence[float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal whole units into parts, so that each part gets about its fraction of every class, and some of each.

    Units are dealt class by class, the rarest class first, in random order; each goes where the images of its classes
    are most wanted. Where no more units of a class are left than parts that still lack it, it goes to one of those.

    Args:
        units: (N,) the name of the unit of each record.
        labels: (N,) class of each record; None: unlabelled, a further class that no part has to hold.
        fractions: of each part; they add up to 1.
        rng: decides the order of dealing.

    Returns:
        The part of each record, 0 to ``len(fractions)`` - 1.

    Raises:
        DataError: a class that cannot stand in every part.
    """
    names, unit_of = np.unique(units.astype(str), return_inverse=True)
    classes = class_names(labels)
    # A further column for unlabelled records, which no part has to hold.
    code = {name: number for number, name in enumerate(classes)}
    codes = np.array([code.get(label, len(classes)) for label in labels])
    images = np.zeros((len(names), len(classes) + 1))
    np.add.at(images, (unit_of, codes), 1)
    holds = images > 0
    num_units = holds[:, : len(classes)].sum(axis=0)
    for number, name in enumerate(classes):
        if num_units[number] < len(fractions):
            raise DataError(
                f"data.split: class {name!r} has {num_units[number]} patient groups, and each of the {len(fractions)} "
                "parts needs one; join the class to another in data.classes, add patients, or ask for fewer parts "
                "(data.split.test_fraction=0, data.split.num_folds)"
            )

    total = images.sum(axis=0)
    share = images / np.maximum(total, 1)  # of its class: a rare class weighs as much as a common one
    rarity = [*sorted(range(len(classes)), key=lambda number: (num_units[number], number)), len(classes)]
    # Classes that share units can starve one another; another order of dealing finds a way where there is one.
    for _ in range(_ATTEMPTS):
        part = np.full(len(names), -1)
        wanted = np.outer(fractions, np.ones(len(total)))
        lacks = np.ones((len(fractions), len(classes)), bool)
        left = num_units.copy()
        order = rng.permutation(len(names))
        for number in rarity:
            for unit in order[holds[order, number] & (part[order] < 0)]:
                own = np.flatnonzero(holds[unit, : len(classes)])
                urgent = own[left[own] <= lacks[:, own].sum(axis=0)]
                needs = lacks[:, urgent].sum(axis=1)
                best = np.lexsort((wanted @ share[unit], needs))[-1]
                part[unit] = best
                wanted[best] -= share[unit]
                lacks[best, own] = False
                left[own] -= 1
        if not lacks.any():
            return part[unit_of]
    starved = classes[int(np.flatnonzero(lacks.any(axis=0))[0])]
    raise DataError(
        f"data.split: class {starved!r} cannot stand in every part, because its {num_units[classes.index(starved)]} "
        "patient groups also hold other classes; join the class to another in data.classes, or add patients"
    )


def class_names(labels: NDArray[np.object_]) -> list[str]:
    """The classes that records have, sorted; None is none."""
    return sorted({label for label in labels if label is not None})
