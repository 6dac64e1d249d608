"""Which records are there to be divided, and which patients are one?  What is known before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.audit.known_pairs import same_pictures
from cxr.audit.same_patient import Join, join_groups
from cxr.errors import ConfigurationError, DataError
from cxr.pipeline.splits import strays
from cxr.sources.manifest import Manifest
from cxr.sources.reading import read_sources


@dataclass(frozen=True)
class Records:
    """What was read.

    Args:
        manifest: its ``group`` holds what a split must not divide.
        pairs: records that show the same picture, see `cxr.audit.same_pictures.SamePictures.pairs`; None where
            nobody looked.
        joins: the patients that they made one.
    """

    manifest: Manifest
    pairs: pd.DataFrame | None = None
    joins: list[Join] = field(default_factory=list)

    def without_strays(self, column: str, value: str) -> Records:
        """Without the records that can neither be trained on nor tested while a value is left out, each with a reason.

        Args:
            column, value: see `cxr.pipeline.splits.strays`.
        """
        gone = strays(self.manifest.records, column, value)
        if not gone.any():
            return self
        detail = f"data.split.value={value}"
        manifest = self.manifest.drop(gone, f"patient stands in the {column} left out", [detail] * len(gone))
        pairs = None if self.pairs is None else pairs_among(self.pairs, ~gone)
        return replace(self, manifest=manifest, pairs=pairs)


def read_records(
    sources: Mapping[str, Mapping[str, Any]],
    *,
    data_dir: str | Path,
    cache_dir: str | Path,
    classes: Mapping[str, Sequence[str]] | None,
    positive: str | None,
    views: Sequence[str] | None,
    download: bool,
    look_for_copies: bool,
    progress: bool = True,
) -> Records:
    """Read the labelled records of all collections, and join patients who share a picture.

    Args:
        sources, data_dir, cache_dir, classes, views, download: see `cxr.sources.reading.read_sources`.
        positive: None or one of the classes.
        look_for_copies: whether pictures are compared.
        progress: show bars on a terminal.

    Raises:
        ConfigurationError, DataError: see `cxr.pipeline.datamodule.CXRDataModule.setup`.
    """
    manifest = read_sources(
        sources,
        data_dir=data_dir,
        cache_dir=cache_dir,
        classes=classes,
        views=views,
        download=download,
        progress=progress,
    )
    _check_classes(manifest, positive)
    if not look_for_copies:
        return Records(manifest)
    pairs = same_pictures(manifest.records, cache_dir, progress=progress).pairs
    return Records(*_with_joined_groups(manifest, pairs))


def pairs_among(pairs: pd.DataFrame, stays: NDArray[np.bool_]) -> pd.DataFrame:
    """The pairs of records that stay, by their new rows."""
    left = pairs[stays[pairs["row_a"]] & stays[pairs["row_b"]]].reset_index(drop=True)
    place = np.cumsum(stays) - 1
    return left.assign(row_a=place[left["row_a"]], row_b=place[left["row_b"]])


def _with_joined_groups(manifest: Manifest, pairs: pd.DataFrame) -> tuple[Manifest, pd.DataFrame, list[Join]]:
    groups, joins = join_groups(manifest.records, pairs)
    if not joins:
        return manifest, pairs, []
    groups = groups.astype(manifest.records["group"].dtype)
    num_joined = sum(len(join.groups) for join in joins)
    note = f"{num_joined} patients share a picture with another: for the split they are {len(joins)}"
    joined = replace(manifest, records=manifest.records.assign(group=groups), notes=(*manifest.notes, note))
    return joined, pairs, joins


def _check_classes(manifest: Manifest, positive: str | None) -> None:
    names = manifest.class_names
    if len(names) < 2:
        raise DataError(f"data.classes: the only class is {', '.join(names)}; a classifier needs two")
    if positive is not None and positive not in names:
        raise ConfigurationError(f"data.positive: {positive!r} is not one of the classes {', '.join(names)}")
    for name in names:
        if not (manifest.records["label"] == name).any():
            raise DataError(f"data.classes: class {name!r} has no image; change its findings, or data.views")
