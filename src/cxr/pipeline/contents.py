"""Which records are there, how are they divided, and where are their pixels?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr.audit.same_patient import Join
from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation
from cxr.pipeline.bad_input import describe_unreadable, require_sound
from cxr.pipeline.prepared_records import PreparedRecords, without_unreadable
from cxr.pipeline.records import Records, pairs_among, read_records
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
    on_bad: str,
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
        on_bad, max_unreadable: see `cxr.pipeline.bad_input.require_sound`.
        look_for_copies: whether pictures are compared before patients are divided.
        split: keyword arguments of `assign_splits`.
        given_split: the split of an earlier run, which counts instead, and so do its groups where it has a column
            ``group``; None for none.
        divides: whether the labelled records are divided; else all records are kept, for scoring.
        progress: show bars on a terminal.

    Raises:
        ConfigurationError, DataError: see `CXRDataModule.setup`.
    """
    taken: dict[str, Any] = {
        "data_dir": data_dir,
        "cache_dir": cache_dir,
        "classes": classes,
        "views": views,
        "download": download,
        "progress": progress,
    }
    names, leaves_one_out = None, split.get("kind") == "leave_one_out"
    if divides:
        # Whose records were dropped as strays hangs on who shares a picture, so that these are looked for again.
        grouped = given_split is not None and "group" in given_split and not leaves_one_out
        read = read_records(sources, positive=positive, look_for_copies=look_for_copies and not grouped, **taken)
        if leaves_one_out and split.get("value") is not None:
            read = read.without_strays(split.get("column", "source"), split["value"])
        if given_split is None:  # now, before minutes of decoding
            names = assign_splits(read.manifest.records, **split)
    else:
        read = Records(read_sources(sources, keep_unlabelled=True, **taken))
    manifest, pairs = read.manifest, read.pairs
    records = manifest.records
    images = prepare_images(
        records["path"].tolist(), records["sha256"].tolist(), preparation, cache_dir, progress=progress
    )
    manifest, images, stays = without_unreadable(manifest, images)
    require_sound(manifest, on_bad, max_unreadable)
    unreadable = describe_unreadable(manifest)
    if unreadable is not None:
        manifest = replace(manifest, notes=(*manifest.notes, unreadable))
    records = manifest.records
    if pairs is not None:
        pairs = pairs_among(pairs, stays)
    if names is not None:
        names = names[stays].reset_index(drop=True)
    elif given_split is not None and divides:
        given = match_split(records, given_split, "the checkpoint", whole=True)
        names = given["split"].astype(object)
        if "group" in given:
            records["group"] = given["group"].astype(records["group"].dtype)
    if names is not None:
        require_every_class(records["label"].to_numpy(object), names, also_in_test=not leaves_one_out)
    code = {name: number for number, name in enumerate(manifest.class_names)}
    labels = np.array([code.get(label, -1) for label in records["label"]], np.int64)
    manifest.records["split"] = names if names is not None else pd.Series(None, records.index, dtype=object)
    return Contents(manifest, PreparedRecords(images, labels), pairs, read.joins)
