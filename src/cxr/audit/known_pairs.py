"""Which pairs were found among these very files before, so that the jobs of a sweep look once?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from cxr.audit.kept_findings import find_once
from cxr.audit.same_pictures import COLUMNS, SamePictures, find_same_pictures

VERSION: Final = 3
"""Of the search: raised when it may find other pairs in the same files, so that older answers are forgotten."""


def same_pictures(records: pd.DataFrame, cache_dir: str | Path, *, progress: bool = True) -> SamePictures:
    """`find_same_pictures`, or what it found in the same records earlier, see `find_once`.

    Raises:
        DataError: see `find_same_pictures`; or the folder cannot be written.
    """
    return find_once(
        lambda: find_same_pictures(records, cache_dir, progress=progress),
        name=f"same-pictures-v{VERSION}",
        about=(f"{path}\0{sha256}" for path, sha256 in zip(records["path"], records["sha256"], strict=True)),
        cache_dir=cache_dir,
        encode=_encode,
        decode=_decode,
    )


def _encode(found: SamePictures) -> dict[str, Any]:
    return {
        "pairs": found.pairs.to_numpy(object).tolist(),
        "num_images": found.num_images,
        "num_pictures": found.num_pictures,
        "num_candidates": found.num_candidates,
        "unreadable": found.unreadable,
    }


def _decode(content: Any) -> SamePictures:
    pairs = pd.DataFrame(content["pairs"], columns=list(COLUMNS))
    pairs = pairs.astype({"row_a": "int64", "row_b": "int64", "kind": object, "score": float, "scale": float})
    unreadable = [(str(name), str(reason)) for name, reason in content["unreadable"]]
    num_images, num_pictures, num_candidates = (
        int(content[name]) for name in ("num_images", "num_pictures", "num_candidates")
    )
    return SamePictures(pairs, num_images, num_pictures, num_candidates, unreadable)
