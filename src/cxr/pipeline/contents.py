"""Which records are there, how are they divided, and where are their pixels?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.audit.known_pairs import same_pictures
from cxr.audit.same_patient import Join, join_groups
from cxr.errors import ConfigurationError, DataError
from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation
from cxr.pipeline.prepared_records import PreparedRecords, without_unreadable
from cxr.pipeline.splits import assign_splits, match_split, require_every_class
from cxr.sources.manifest import Manifest
from cxr.sources.reading import read_sources


@dataclass(frozen=True)
class Contents:
    """What was read, divided and prepared.

    Args:
        manifest: its records carry their ``split`` (None where all are for scoring).
        dataset: the pixels, in the order of the records.
        pairs: records that show the same picture, see `cxr.audit.same_pictures.SamePictures.pairs`; None where
            nobody looked: without ``look_for_copies``, where all are for scoring, and where an earlier split is given
            that holds what was found then, the groups.
        joins: the patients that they made one.
    """

    manifest: Manifest
    dataset: PreparedRecords
    pairs: pd.DataFrame | None = None
    joins: list[Join] = field(default_factory=list)


def read_contents(
    sources: Mapping[str, Mapping[str, Any]],
    *,
    data_dir: str | Path,
    cache_dir: str | Path,
    classes: Mapping[str, Sequence[str]] | None,
    positive: str | None,
    views: Sequence[str] | None,
    download: bool,
    preparation: Preparation,
    max_unreadable: float,
    look_for_copies: bool,
    split: Mapping[str, Any],
    given_split: pd.DataFrame | None,
    divides: bool,
    progress: bool,
) -> Contents:
    """Read the collections, join patients who share a picture, divide, prepare.

    Args:
        sources, data_dir, cache_dir, classes, views, download: see `cxr.sources.reading.read_sources`.
        positive: None or one of the classes.
        preparation: of the pixels.
        max_unreadable: see `cxr.pipeline.prepared_records.without_unreadable`.
        look_for_copies: whether pictures are compared before patients are divided.
        split: keyword arguments of `assign_splits`.
        given_split: the split of an earlier run, which counts instead, and so do its groups where it has a column
            ``group``; None for none.
        divides: whether the labelled records are divided; else all records are kept, for scoring.
        progress: show bars on a terminal.

    Raises:
        ConfigurationError, DataError: see `CXRDataModule.setup`.
    """
    manifest = read_sources(
        sources,
        data_dir=data_dir,
        cache_dir=cache_dir,
        classes=classes,
        views=views,
        download=download,
        keep_unlabelled=not divides,
        progress=progress,
    )
    pairs, names = None, None
    joins: list[Join] = []
    if divides:
        _check_classes(manifest, positive)
        if look_for_copies and (given_split is None or "group" not in given_split):
            pairs = same_pictures(manifest.records, cache_dir, progress=progress).pairs
            manifest, joins = _with_joined_groups(manifest, pairs)
        if given_split is None:  # now, before minutes of decoding
            names = assign_splits(manifest.records, **split)
    records = manifest.records
    images = prepare_images(
        records["path"].tolist(), records["sha256"].tolist(), preparation, cache_dir, progress=progress
    )
    manifest, images, stays = without_unreadable(manifest, images, max_unreadable)
    records = manifest.records
    if pairs is not None:
        pairs = _among(pairs, stays)
    if names is not None:
        names = names[stays].reset_index(drop=True)
    elif given_split is not None and divides:
        names = match_split(records, given_split, "the checkpoint", whole=True)
        if "group" in given_split:
            groups = pd.Series(_given_groups(records, given_split), records.index, dtype=records["group"].dtype)
            records["group"] = groups
    if names is not None:
        require_every_class(records["label"].to_numpy(object), names)
    code = {name: number for number, name in enumerate(manifest.class_names)}
    labels = np.array([code.get(label, -1) for label in records["label"]], np.int64)
    manifest.records["split"] = names if names is not None else pd.Series(None, records.index, dtype=object)
    return Contents(manifest, PreparedRecords(images, labels), pairs, joins)


def _with_joined_groups(manifest: Manifest, pairs: pd.DataFrame) -> tuple[Manifest, list[Join]]:
    groups, joins = join_groups(manifest.records, pairs)
    if not joins:
        return manifest, []
    groups = groups.astype(manifest.records["group"].dtype)
    num_joined = sum(len(join.groups) for join in joins)
    note = f"{num_joined} patients share a picture with another: for the split they are {len(joins)}"
    return replace(manifest, records=manifest.records.assign(group=groups), notes=(*manifest.notes, note)), joins


def _given_groups(records: pd.DataFrame, given: pd.DataFrame) -> list[str]:
    """The groups of an earlier split that `match_split` has matched: by source and image, else by the file's bytes."""
    keys = zip(given["source"], given["image"], strict=True)
    group_of = dict(zip(keys, given["group"], strict=True))
    group_of_bytes = dict(zip(given["sha256"], given["group"], strict=True))
    rows = zip(records["source"], records["image"], records["sha256"], strict=True)
    return [group_of[source, image] if (source, image) in group_of else group_of_bytes[sha]
            for source, image, sha in rows]  # fmt: skip


def _among(pairs: pd.DataFrame, stays: np.ndarray[Any, np.dtype[np.bool_]]) -> pd.DataFrame:
    """The pairs of records that stay, by their new rows."""
    left = pairs[stays[pairs["row_a"]] & stays[pairs["row_b"]]].reset_index(drop=True)
    place = np.cumsum(stays) - 1
    return left.assign(row_a=place[left["row_a"]], row_b=place[left["row_b"]])


def _check_classes(manifest: Manifest, positive: str | None) -> None:
    names = manifest.class_names
    if len(names) < 2:
        raise DataError(f"data.classes: the only class is {', '.join(names)}; a classifier needs two")
    if positive is not None and positive not in names:
        raise ConfigurationError(f"data.positive: {positive!r} is not one of the classes {', '.join(names)}")
    for name in names:
        if not (manifest.records["label"] == name).any():
            raise DataError(f"data.classes: class {name!r} has no image; change its findings, or data.views")
