"""Which pairs were found among these very files before, so that the jobs of a sweep look once?"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Final

import pandas as pd
from filelock import FileLock

from cxr.audit.same_pictures import COLUMNS, SamePictures, find_same_pictures
from cxr.errors import DataError
from cxr.files import write_atomically

logger = logging.getLogger(__name__)

VERSION: Final = 2
"""Of the search: raised when it may find other pairs in the same files, so that older answers are forgotten."""


def same_pictures(records: pd.DataFrame, cache_dir: str | Path, *, progress: bool = True) -> SamePictures:
    """`find_same_pictures`, or what it found in the same records earlier, kept in ``cache_dir``.

    Any number of processes may ask at once: one looks, the others wait for it.

    Raises:
        DataError: see `find_same_pictures`; or the folder cannot be written.
    """
    cache_dir = Path(cache_dir)
    content = "\n".join(f"{path}\0{sha256}" for path, sha256 in zip(records["path"], records["sha256"], strict=True))
    key = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = cache_dir / f"same-pictures-v{VERSION}-{key}.json"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = _read(path)
            if known is None:
                known = find_same_pictures(records, cache_dir, progress=progress)
                _write(known, path)
    except OSError as error:
        raise DataError(
            f"paths.cache: {cache_dir} cannot be written ({error.strerror}); choose another folder"
        ) from error
    return known


def _write(found: SamePictures, path: Path) -> None:
    content = {
        "pairs": found.pairs.to_numpy(object).tolist(),
        "num_images": found.num_images,
        "num_pictures": found.num_pictures,
        "num_candidates": found.num_candidates,
        "unreadable": found.unreadable,
    }
    # Paths may hold bytes that are no UTF-8; ASCII with escapes carries them.
    write_atomically(path, json.dumps(content))


def _read(path: Path) -> SamePictures | None:
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        pairs = pd.DataFrame(content["pairs"], columns=list(COLUMNS))
        pairs = pairs.astype({"row_a": "int64", "row_b": "int64", "kind": object, "score": float, "scale": float})
        unreadable = [(str(name), str(reason)) for name, reason in content["unreadable"]]
        num_images, num_pictures, num_candidates = (
            int(content[name]) for name in ("num_images", "num_pictures", "num_candidates")
        )
        return SamePictures(pairs, num_images, num_pictures, num_candidates, unreadable)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: cannot be read (%s); the pictures are compared again", path, error)
        return None
