"""Was this looked for among these very records before, so that the jobs of a sweep look once?"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from cxr.errors import DataError
from cxr.files import write_atomically

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


def find_once(
    find: Callable[[], Found],
    *,
    name: str,
    about: Iterable[str],
    cache_dir: str | Path,
    encode: Callable[[Found], Any],
    decode: Callable[[Any], Found],
) -> Found:
    """What a search finds, or what it found earlier among the same records, kept in ``cache_dir``.

    Any number of processes may ask at once: one looks, the others wait for it.

    Args:
        find: the search.
        name: of the search and its version, the first part of a file name: another version forgets the older answers.
        about: everything that the answer hangs on, a line each.
        cache_dir: made if absent.
        encode: the answer in plain values, fit for JSON.
        decode: the answer again; raises ValueError, KeyError or TypeError on what `encode` did not give.

    Raises:
        DataError: the folder cannot be written; and whatever ``find`` raises.
    """
    folder = Path(cache_dir)
    key = hashlib.sha256("\n".join(about).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = folder / f"{name}-{key}.json"
    lock = FileLock(path.with_suffix(".lock"))
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        known = _read(path, decode)
        if known is None:
            known = find()
            with _writing(folder):
                # Paths may hold bytes that are no UTF-8; ASCII with escapes carries them.
                write_atomically(path, json.dumps(encode(known)))
    finally:
        lock.release()
    return known


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"paths.cache: {folder} cannot be written ({error.strerror}); choose another folder") from error


def _read(path: Path, decode: Callable[[Any], Found]) -> Found | None:
    try:
        return decode(json.loads(path.read_text(encoding="ascii")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: cannot be read (%s); it is looked for again", path, error)
        return None
