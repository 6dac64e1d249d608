"""What did the shortcut probes find in these very records before, so that the jobs of a sweep ask once?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from cxr.audit.kept_findings import find_once
from cxr.audit.picture_features import SIZE
from cxr.audit.shortcut_probes import READ, Probe, ShortcutProbes, probe_shortcuts
from cxr.images.decode import DECODER_VERSION
from cxr.images.lung_masks import find_lung_masks
from cxr.images.prepare import Aspect

VERSION: Final = 2
"""Of the probes and of the rules of their verdict: raised when the same records may give another answer."""


def known_shortcuts(
    records: pd.DataFrame,
    class_names: Sequence[str],
    positive: str,
    cache_dir: str | Path,
    *,
    aspect: Aspect = "crop",
    num_resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> ShortcutProbes:
    """`probe_shortcuts`, or what it found in the same records earlier, see `find_once`.

    The split is no part of it: the probes divide the patients themselves. The size of the images of a training is
    none either, since the probes have a size of their own.

    Raises:
        DataError: see `probe_shortcuts`; or the folder cannot be written.
    """

    def about() -> Iterator[str]:
        yield json.dumps([list(class_names), positive, SIZE, aspect, DECODER_VERSION, num_resamples, seed])
        # In an order of their own: that of the rows is no part of the answer.
        rows = records[list(READ)].to_numpy(object).tolist()
        yield from sorted(json.dumps([None if pd.isna(cell) else str(cell) for cell in row]) for row in rows)
        for mask in sorted(map(str, find_lung_masks(records).path_of.values())):
            state = Path(mask).stat()
            yield json.dumps([mask, state.st_size, state.st_mtime_ns])

    return find_once(
        lambda: probe_shortcuts(
            records,
            class_names,
            positive,
            cache_dir,
            aspect=aspect,
            num_resamples=num_resamples,
            seed=seed,
            progress=progress,
        ),
        name=f"shortcuts-v{VERSION}",
        about=about(),
        cache_dir=cache_dir,
        encode=ShortcutProbes.as_dict,
        decode=_decode,
    )


def _decode(content: Any) -> ShortcutProbes:
    taken = [field.name for field in fields(ShortcutProbes) if field.name != "probes"]
    return ShortcutProbes(
        **{name: content[name] for name in taken}, probes=tuple(Probe(**probe) for probe in content["probes"])
    )
