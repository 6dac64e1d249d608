"""Which networks does each protocol need, and which of them are impossible with these records?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from cxr.errors import DataError
from cxr.pipeline.records import Records
from cxr.pipeline.splits import assign_splits

GROUP: Final = "group"
UNITS: Final[Mapping[str, str]] = {"random_image": "image", "patient": "patient", GROUP: "group"}
COLUMNS: Final = ("source", "country")
TITLES: Final[Mapping[str, str]] = {
    "random_image": "random image",
    "patient": "patient id as listed",
    GROUP: "group of patients",
    "source": "leave one source out",
    "country": "leave one country out",
}


@dataclass(frozen=True)
class Network:
    """One training of a protocol.

    Args:
        name: '0', '1', ... of a fold; the source or country that is left out.
        split: what ``data.split`` must be, besides ``seed`` and ``val_fraction``.
        num_images, num_patients: of its test set.
        reason: why it cannot be trained; None where it can.
    """

    name: str
    split: Mapping[str, Any]
    num_images: int
    num_patients: int
    reason: str | None = None


@dataclass(frozen=True)
class Protocol:
    """One way of dividing the records so that as many of them as possible are tested, each once.

    Args:
        name: one of ``TITLES``.
        networks: in order; those that cannot be trained are among them, with the reason.
        reason: why the protocol as a whole is impossible; None where it is not.
        same_as: the protocol with the very same folds, whose networks are also these; None where there is none.
        notes: what must be known of it, a sentence each.
        num_leaks: patient groups that at least one fold divides.
    """

    name: str
    networks: tuple[Network, ...]
    reason: str | None = None
    same_as: str | None = None
    notes: tuple[str, ...] = ()
    num_leaks: int = 0

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def trained(self) -> tuple[Network, ...]:
        """The networks that can be trained."""
        return tuple(network for network in self.networks if network.reason is None)


def plan_protocols(
    records: Records, names: Sequence[str], *, num_folds: int, min_images: int, seed: int, val_fraction: float
) -> list[Protocol]:
    """Divide the records as every network of every protocol will find them divided, and see what comes of it.

    Args:
        records: all that can be trained on and tested.
        names: of the protocols, out of ``TITLES``; ``group`` among them.
        num_folds: of random_image, patient and group; at least 2.
        min_images: a source or country of fewer is not left out.
        seed, val_fraction: as for `assign_splits`.

    Returns:
        In the order of the names.
    """
    common = {"seed": seed, "val_fraction": val_fraction}
    table = records.manifest.records
    reference = _divided(table, GROUP, num_folds, common)
    planned = []
    for name in names:
        if name in COLUMNS:
            planned.append(_left_out_one_by_one(records, name, min_images, common))
        else:
            divided = reference if name == GROUP else _divided(table, name, num_folds, common)
            planned.append(_folds(table, name, num_folds, divided, None if name == GROUP else reference))
    return planned


def _divided(
    records: pd.DataFrame, name: str, num_folds: int, common: Mapping[str, Any]
) -> list[pd.Series[str]] | DataError:
    """The split of every fold."""
    options = {"kind": "kfold", "unit": UNITS[name], "num_folds": num_folds, **common}
    try:
        return [assign_splits(records, fold=fold, **options) for fold in range(num_folds)]
    except DataError as error:
        return error


def _folds(
    records: pd.DataFrame,
    name: str,
    num_folds: int,
    divided: list[pd.Series[str]] | DataError,
    reference: list[pd.Series[str]] | DataError | None,
) -> Protocol:
    if isinstance(divided, DataError):
        return Protocol(name, (), reason=str(divided))
    networks, leaking = [], np.zeros(0, dtype=object)
    for fold, split in enumerate(divided):
        tested = records[split == "test"]
        chosen = {"kind": "kfold", "unit": UNITS[name], "num_folds": num_folds, "fold": fold}
        networks.append(Network(str(fold), chosen, len(tested), tested["group"].nunique()))
        sides = split.groupby(records["group"]).nunique()
        leaking = np.union1d(leaking, sides.index[sides > 1].astype(str))
    same = None
    notes = []
    if isinstance(reference, list) and all(one.equals(two) for one, two in zip(divided, reference, strict=True)):
        same = GROUP
        notes.append("the folds are those by group, so its networks are not trained again: no listed patient shares a "
                     "picture with another" if name == "patient" else "the folds are those by group: each patient has "
                     "one image")  # fmt: skip
    return Protocol(name, tuple(networks), same_as=same, notes=tuple(notes), num_leaks=len(leaking))


def _left_out_one_by_one(records: Records, column: str, min_images: int, common: Mapping[str, Any]) -> Protocol:
    table = records.manifest.records
    counts = table[column].dropna().astype(str).value_counts().sort_index()
    unknown = int(table[column].isna().sum())
    if not len(counts):
        return Protocol(column, (), reason=f"no record has a {column}")
    if len(counts) == 1 and not unknown:
        return Protocol(
            column, (), reason=f"all records are of one {column}, {counts.index[0]}: nothing is left to train on"
        )
    notes = []
    if unknown:
        notes.append(f"{unknown:,} images without a {column} always train or validate, and are not tested")
    small = counts[counts < min_images]
    if len(small):
        listed = ", ".join(f"{value} {count}" for value, count in small.items())
        notes.append(f"fewer than {min_images} images, so not left out (protocols.min_images): {listed}")
    networks = []
    for value in counts.index[counts >= min_images]:
        left = records.without_strays(column, value)
        tested = table[table[column] == value]
        chosen = {"kind": "leave_one_out", "column": column, "value": value}
        reason = None
        try:
            assign_splits(left.manifest.records, **chosen, **common)
        except DataError as error:
            reason = str(error).removeprefix(f"data.split.value={value}: ")
        networks.append(Network(value, chosen, len(tested), tested["group"].nunique(), reason))
        num_strays = len(table) - len(left.manifest.records)
        if num_strays and reason is None:
            notes.append(f"{value} left out: {num_strays:,} images elsewhere of its patients are used for nothing")
    reason = None
    if not networks:
        reason = f"no {column} has {min_images} images (protocols.min_images)"
    elif all(network.reason is not None for network in networks):
        reason = "; ".join(str(network.reason) for network in networks)
    return Protocol(column, tuple(networks), reason=reason, notes=tuple(notes))
