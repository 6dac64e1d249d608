"""Where do the prepared pixels of a set of images lie, so that each is decoded once and for all jobs?

One cache is two files in ``cache_dir``: ``<size>-<aspect>-v<decoder>-<key>.pixels``, uint8 squares one after another,
and the same name with ``.json``, the index. The key is the SHA-256 of the set of image fingerprints, the preparation
and the decoder's version, so a cache can be missing or damaged but never stale. The index is written last and carries
a checksum of itself and the size of the pixels: what it vouches for is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cxr.errors import DataError
from cxr.images.decode import DECODER_VERSION, decode_grey
from cxr.images.dicom import further_codecs
from cxr.images.opening import UnreadableImageError, open_image
from cxr.images.prepare import Preparation

logger = logging.getLogger(__name__)

INDEX_FORMAT = 1


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """The prepared pixels of a list of images. Opens in milliseconds, and pickles as a path, not as pixels.

    Attributes:
        path: the file of the pixels.
        size: side of the squares in pixels.
        num_unique: how many different readable images the file holds.
        rows: int64 (number of images,), the place of each image in ``pixels``; -1 where it is unreadable.
        unreadable: path and reason of every image that gave no picture, in the order of the images.
        pixels: uint8 (num_unique, size, size), read-only, memory-mapped.
    """

    path: Path
    size: int
    num_unique: int
    rows: NDArray[np.int64]
    unreadable: list[tuple[str, str]]
    pixels: NDArray[np.uint8] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = (self.num_unique, self.size, self.size)
        pixels: NDArray[np.uint8]
        if self.num_unique == 0:  # an empty file cannot be mapped
            pixels = np.zeros(shape, np.uint8)
            pixels.flags.writeable = False
        else:
            try:
                pixels = np.memmap(self.path, np.uint8, "r", shape=shape)
            except (OSError, ValueError) as error:
                raise DataError(f"{self.path}: the prepared cache cannot be opened ({error}); run again") from error
        object.__setattr__(self, "pixels", pixels)

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedImages, (self.path, self.size, self.num_unique, self.rows, self.unreadable)


def prepare_images(
    paths: Sequence[str],
    sha256: Sequence[str],
    preparation: Preparation,
    cache_dir: str | Path,
    *,
    num_workers: int | None = None,
    progress: bool = True,
) -> PreparedImages:
    """Open the prepared pixels of these images, decoding those that no cache in the folder holds yet.

    Images with equal bytes are decoded and stored once. Any number of processes may call this at once: one builds,
    the others wait for it. Memory does not grow with the number of images.

    Args:
        paths: absolute paths of the images.
        sha256: the SHA-256 of each file's bytes, in hexadecimal.
        preparation: size and aspect.
        cache_dir: where caches are kept; made if absent.
        num_workers: threads that decode (Pillow releases the interpreter while it does); None: one per usable core.
        progress: show a bar, where stderr is a terminal.

    Raises:
        DataError: a file cannot be opened or no longer has its fingerprint; the cache cannot be written (disk full).
        ValueError: lists of unequal length, ``num_workers`` below 1.
    """
    if len(paths) != len(sha256):
        raise ValueError(f"{len(paths)} paths but {len(sha256)} fingerprints")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers: {num_workers} is below 1")
    cache = _Cache(Path(cache_dir), preparation, sorted(set(sha256)))
    try:
        index = cache.read()
        if index is None:
            cache.folder.mkdir(parents=True, exist_ok=True)
            with _held(FileLock(cache.lock)):
                index = cache.read()  # another process may have built it meanwhile
                if index is None:
                    path_of: dict[str, str] = {}
                    for path, sha in zip(paths, sha256, strict=True):
                        path_of.setdefault(sha, str(path))
                    index = cache.build(path_of, usable_cores() if num_workers is None else num_workers, progress)
    except OSError as error:
        needed = cache.image_bytes * len(cache.unique) / 1e6
        raise DataError(
            f"{cache.folder}: the prepared cache cannot be used ({error.strerror or error}); it takes {needed:.0f} MB: "
            f"make room, or choose another cache folder"
        ) from error
    rows = np.array([index.row_of.get(sha, -1) for sha in sha256], np.int64)
    unreadable = [(str(p), index.unreadable[s]) for p, s in zip(paths, sha256, strict=True) if s in index.unreadable]
    return PreparedImages(cache.pixels, preparation.size, len(index.row_of), rows, unreadable)


@dataclass(frozen=True)
class _Index:
    row_of: dict[str, int]
    unreadable: dict[str, str]


class _Cache:
    """The files of one cache: a set of images under one preparation."""

    def __init__(self, folder: Path, preparation: Preparation, unique: list[str]) -> None:
        self.folder = folder
        self.preparation = preparation
        self.unique = unique
        self.image_bytes = preparation.size**2
        self.family = f"{preparation.size}-{preparation.aspect}-v{DECODER_VERSION}"
        # What a further codec could read must not stay unreadable because it was not there once.
        identity = [INDEX_FORMAT, DECODER_VERSION, preparation.as_dict(), unique, *further_codecs()]
        self.key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        stem = folder / f"{self.family}-{self.key[:16]}"
        self.pixels = stem.with_suffix(".pixels")
        self.index = stem.with_suffix(".json")
        self.lock = stem.with_suffix(".lock")

    def read(self) -> _Index | None:
        """The index, or None where the cache is missing or damaged."""
        index = _read_index(self.index, self.image_bytes)
        if index is not None and index.row_of.keys() | index.unreadable.keys() != set(self.unique):
            logger.warning("%s is damaged (it lists other images): building it again", self.index)
            return None
        return index

    def build(self, path_of: dict[str, str], num_workers: int, progress: bool) -> _Index:
        """Write pixels and index; the caller holds the lock. On any error, nothing half-made stays behind."""
        row_of: dict[str, int] = {}
        unreadable: dict[str, str] = {}
        # One builder at a time: fixed names, so that what a killed process left is overwritten, not piled up.
        new_pixels = self.pixels.with_suffix(".pixels.partial")
        new_index = self.index.with_suffix(".json.partial")
        try:
            with ExitStack() as stack, new_pixels.open("wb") as file:
                if hasattr(os, "posix_fallocate") and path_of:  # a full disk is found now, not in an hour
                    os.posix_fallocate(file.fileno(), 0, self.image_bytes * len(path_of))
                known = self._known(stack)
                missing = [(path, sha) for sha, path in path_of.items() if sha not in known]
                decoded = stack.enter_context(closing(_decoded(missing, self.preparation, num_workers)))
                bar = stack.enter_context(_progress_bar(progress))
                for sha in bar.track(path_of, description=f"Preparing images at {self.preparation.size} px"):
                    found = known[sha] if sha in known else next(decoded)
                    if isinstance(found, str):
                        unreadable[sha] = found
                    else:
                        file.write(found.read() if isinstance(found, _StoredRow) else found.data)
                        row_of[sha] = len(row_of)
                file.flush()
                file.truncate(self.image_bytes * len(row_of))
                os.fsync(file.fileno())
            self.index.unlink(missing_ok=True)  # it must never vouch for the new pixels
            new_pixels.replace(self.pixels)
            _write_index(new_index, self.key, self.preparation, row_of, unreadable)
            new_index.replace(self.index)
            _sync_folder(self.folder)
        finally:
            new_pixels.unlink(missing_ok=True)
            new_index.unlink(missing_ok=True)
        return _Index(row_of, unreadable)

    def _known(self, stack: ExitStack) -> dict[str, _StoredRow | str]:
        """What other caches of the same preparation in the folder hold of these images: pixels, or a reason."""
        wanted = set(self.unique)
        known: dict[str, _StoredRow | str] = {}
        for path in sorted(self.folder.glob(f"{self.family}-*.json")):
            index = _read_index(path, self.image_bytes) if path != self.index else None
            if index is None or wanted.isdisjoint(index.row_of.keys() | index.unreadable.keys()):
                continue
            file = stack.enter_context(path.with_suffix(".pixels").open("rb"))
            for sha in wanted & index.row_of.keys():
                known[sha] = _StoredRow(file, index.row_of[sha], self.image_bytes)
            for sha in wanted & index.unreadable.keys():
                if index.unreadable[sha] != "no codec":
                    known[sha] = index.unreadable[sha]
            wanted -= known.keys()
        return known


@dataclass(frozen=True)
class _StoredRow:
    """One image in another cache. Read, not mapped: mapped pages would count as memory of this process."""

    file: BinaryIO
    row: int
    num_bytes: int

    def read(self) -> bytes:
        self.file.seek(self.row * self.num_bytes)
        return self.file.read(self.num_bytes)


def _decoded(
    images: list[tuple[str, str]], preparation: Preparation, num_workers: int
) -> Generator[NDArray[np.uint8] | str, None, None]:
    """Squares, or the reason why there is none, in the order of the images, with a bounded number in flight."""
    # Several small images go to a thread at once: handing each over alone costs a quarter of what decoding it does.
    per_job = min(8, max(1, 2**22 // preparation.size**2))
    jobs = [images[start : start + per_job] for start in range(0, len(images), per_job)]
    pending: deque[Future[list[NDArray[np.uint8] | str]]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="prepare") as pool:
        try:
            for job in jobs:
                pending.append(pool.submit(_decode_all, job, preparation))
                if len(pending) > 2 * num_workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode_all(images: list[tuple[str, str]], preparation: Preparation) -> list[NDArray[np.uint8] | str]:
    return [_decode_one(path, sha, preparation) for path, sha in images]


def _decode_one(path: str, sha256: str, preparation: Preparation) -> NDArray[np.uint8] | str:
    try:
        with open_image(path) as file:
            content = file.read()
            _require_same(path, hashlib.sha256(content).hexdigest(), sha256)
            return preparation.apply(decode_grey(content, path))
    except UnreadableImageError as error:
        if error.reason == "cannot be opened":
            raise
        try:
            with Path(path).open("rb") as file:  # where the header was refused, its bytes were not all read
                _require_same(path, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
        except OSError as gone:
            raise UnreadableImageError(path, "cannot be opened", gone.strerror or str(gone)) from gone
        return error.reason


def _require_same(path: str, found: str, sha256: str) -> None:
    if found != sha256:
        raise DataError(f"{path}: the file is not the one that was fingerprinted; touch it and run again")


def _read_index(path: Path, image_bytes: int) -> _Index | None:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        stored = json.loads(text)
        if stored.pop("checksum") != _checksum(stored):
            raise ValueError("its checksum is wrong")
        index = _Index({sha: row for row, sha in enumerate(stored["images"])}, stored["unreadable"])
        if path.with_suffix(".pixels").stat().st_size != image_bytes * len(index.row_of):
            raise ValueError("its pixels are not as many as it lists")
    except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        logger.warning("%s is damaged (%s): it is not used", path, error)
        return None
    return index


def _write_index(
    path: Path, key: str, preparation: Preparation, row_of: dict[str, int], unreadable: dict[str, str]
) -> None:
    content = {
        "format": INDEX_FORMAT,
        "key": key,
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
        "preparation": preparation.as_dict(),
        "unreadable": unreadable,
        "images": list(row_of),
    }
    with path.open("w", encoding="utf-8") as file:
        json.dump({"checksum": _checksum(content), **content}, file, indent=0)
        file.flush()
        os.fsync(file.fileno())


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _held(lock: FileLock) -> AbstractContextManager[object]:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is preparing the same images; waiting for it")
        return lock.acquire()


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress_bar(progress: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (progress and console.is_terminal))
