"""Is a file a picture that is read, and is there memory for what its header says it takes?

What a file costs is worked out before anything of it is decoded: one that would take more than ``MAX_MEMORY`` is
refused, and the files that threads decode at once never take more than that together.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from cxr.errors import DataError
from cxr.images.dicom import dicom_memory
from cxr.sources.dicom_file import RefusedDicomError, looks_like_dicom

MAX_PIXELS = 64 * 1024 * 1024
"""The largest picture that is decoded, in pixels; the largest in covid-chestxray-dataset has 18 million."""

MAX_MEMORY = 384 * 1024**2
"""What decoding takes at most, in bytes, all threads together: the file, its pixels and the grey picture."""

MAX_BYTES = MAX_MEMORY // 4
"""The largest file that is read, in bytes; a text within it may for a moment be there four times (in Pillow)."""

_MAX_TAG_VALUES = 1 << 20  # of one tag of a TIFF: tiles of 8 x 8 in the largest picture

Reason = Literal[
    "cannot be opened",
    "empty file",
    "not an image",
    "unsupported format",
    "too large",
    "several frames",
    "truncated",
    "damaged",
    "16-bit colour below full range",
    "no finite values",
    "no codec",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class UnreadableImageError(DataError):
    """A file does not give a picture.

    Args:
        path: the file.
        reason: one of ``REASONS``, so that reasons can be counted.
        detail: what is particular to this file, or nothing.
    """

    def __init__(self, path: str | Path, reason: Reason, detail: str = "") -> None:
        super().__init__(str(path), reason, detail)  # all arguments, so that the error survives pickling
        self.path = str(path)
        self.reason: Reason = reason
        self.detail = " ".join(detail.split())

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@contextmanager
def open_image(path: str | Path) -> Iterator[BinaryIO]:
    """A file that may be an image, at its beginning, once there is memory for what its header says it takes.

    Threads that would together take more than ``MAX_MEMORY`` wait for each other; within the block the content may be
    read whole and decoded.

    Raises:
        UnreadableImageError: for all that can be told without decoding a pixel: "cannot be opened", "empty file", "not
            an image", "unsupported format", "too large", "several frames", or "truncated" or "damaged" in its header.
    """
    try:
        with Path(path).open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes > MAX_BYTES:
                raise UnreadableImageError(path, "too large", f"{num_bytes} bytes, the limit is {MAX_BYTES}")
            is_dicom = looks_like_dicom(file.read(132))
            file.seek(0)
            # A DICOM file may have to be inflated before it shows its header, up to MAX_INFLATED.
            with _memory.of(max(4 * num_bytes, MAX_MEMORY // 3 if is_dicom else 0)):
                needed = (_dicom_memory if is_dicom else _other_memory)(file, num_bytes, path)
            with _memory.of(needed):
                file.seek(0)
                yield file
    except OSError as error:
        raise UnreadableImageError(path, "cannot be opened", error.strerror or str(error)) from error


class _Memory:
    """An amount of memory that threads share: who wants more than is left waits until others are done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, num_bytes: int) -> Iterator[None]:
        """Never within one another: two threads would wait for each other for ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken + num_bytes <= self._total)
            self._taken += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= num_bytes
                self._changed.notify_all()


_memory = _Memory(MAX_MEMORY)


def _dicom_memory(file: BinaryIO, num_bytes: int, path: str | Path) -> int:
    with dicom_reasons(path):
        return dicom_memory(file, num_bytes, max_pixels=MAX_PIXELS, max_memory=MAX_MEMORY)


def _other_memory(file: BinaryIO, num_bytes: int, path: str | Path) -> int:
    image, needed = open_header(file, num_bytes, path)
    with image:
        return needed


@contextmanager
def dicom_reasons(path: str | Path) -> Iterator[None]:
    try:
        yield
    except RefusedDicomError as error:
        raise UnreadableImageError(path, error.reason, error.detail) from None


def open_header(file: BinaryIO, num_bytes: int, path: str | Path) -> tuple[ImageFile, int]:
    """The header of a file that is no DICOM, its pixels still undecoded, and the memory that decoding it takes, bytes.

    Args:
        file: at its beginning.
        num_bytes: of the file.
        path: named in errors.

    Raises:
        UnreadableImageError: see `open_image`.
    """
    opener = _opener(file.read(352), path)
    with pillow_silent():
        try:
            if opener is TiffImageFile:
                _check_tiff_tags(file)
            file.seek(0)
            image = opener(file)
        except MemoryError:
            raise  # says something about the machine, not about the file
        except Exception as error:  # Pillow's readers raise whatever a damaged header makes them stumble over
            raise unreadable(path, error) from error
        needed = _pillow_memory(image, num_bytes, path)
    if needed > MAX_MEMORY:
        named = f"{image.size[0]} x {image.size[1]}"
        raise UnreadableImageError(
            path, "too large", f"{named} would take {needed} bytes of memory, the limit is {MAX_MEMORY}"
        )
    return image, needed


def _pillow_memory(image: ImageFile, num_bytes: int, path: str | Path) -> int:
    pixels = image.size[0] * image.size[1]
    if pixels > MAX_PIXELS:
        named = f"{image.size[0]} x {image.size[1]}"
        raise UnreadableImageError(path, "too large", f"{named}, the limit is {MAX_PIXELS} pixels")
    if getattr(image, "is_animated", False):
        raise UnreadableImageError(path, "several frames")
    stored = 4
    if image.mode in ("1", "L", "P") or (isinstance(image, JpegImageFile) and image.mode != "CMYK"):
        stored = 1  # of a JPEG the luma alone
    elif image.mode.startswith("I;16"):
        stored = 2
    # The grey picture, and the same turned: whether a PNG is to be turned may stand behind its pixels.
    needed = num_bytes + pixels * (stored + 2)
    if isinstance(image, JpegImageFile):
        # The coefficients of a progressive file, 16 bits each, are all there before the first pixel is (libjpeg).
        sampling = [(across, down) for _, across, down, _ in image.layer]
        widest = max((across for across, _ in sampling), default=1) * max((down for _, down in sampling), default=1)
        needed += round(2 * pixels * sum(across * down for across, down in sampling) / max(1, widest))
    elif isinstance(image, BmpImageFile):
        needed += 2 * pixels  # run lengths are unpacked in Python, and copied
    elif isinstance(image, TiffImageFile):
        try:
            needed += _tile_bytes(image.tag_v2, image.size)
        except (TypeError, ValueError) as error:
            raise UnreadableImageError(path, "damaged", str(error)) from error
        needed += pixels * stored * (image.tag_v2.get(274, 1) != 1)
    return needed


def _tile_bytes(tags: ImageFileDirectory_v2, size: tuple[int, int]) -> int:
    """What one strip or tile of a TIFF takes unpacked; a tile may be far larger than the picture."""
    compression = int(tags.get(259, 1))
    if compression == 1:
        return 0
    width = int(tags.get(322, size[0]))
    height = int(tags.get(323, min(int(tags.get(278, size[1])), size[1])))
    bits = tags.get(258, (1,))
    deep = max(int(sum(bits)), int(max(bits)) * int(tags.get(277, 1)))
    return width * height * (max(deep, 32) if compression in (6, 7) else deep) // 8  # a JPEG within is unpacked as RGBA


def _check_tiff_tags(file: BinaryIO) -> None:
    """Pillow makes every value of a tag an object of Python, forty times as large as in the file."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    (place,) = struct.unpack(f"{order}Q", head[8:16]) if big else struct.unpack(f"{order}L", head[4:8])
    file.seek(place)
    (num_tags,) = struct.unpack(f"{order}Q", file.read(8)) if big else struct.unpack(f"{order}H", file.read(2))
    for _ in range(min(num_tags, 65535)):
        entry = file.read(20 if big else 12)
        if len(entry) < (20 if big else 12):
            return  # Pillow makes do with the tags that are there
        tag, kind = struct.unpack(f"{order}HH", entry[:4])
        (count,) = struct.unpack(f"{order}Q", entry[4:12]) if big else struct.unpack(f"{order}L", entry[4:8])
        # Bytes, text and what is undefined stay in one piece.
        if kind not in (1, 2, 7) and count > _MAX_TAG_VALUES:
            raise OSError(f"its tag {tag} has {count} values")


def _opener(content: bytes, path: str | Path) -> Callable[[BinaryIO], ImageFile]:
    # Pillow's readers are called directly: Image.open would first try every plug-in, and applies a limit
    # (MAX_IMAGE_PIXELS) that is global state.
    if content.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if content.startswith((b"II\x2a\x00", b"MM\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b")):
        return TiffImageFile
    if content.startswith(b"BM"):
        return BmpImageFile
    if not content:
        raise UnreadableImageError(path, "empty file")
    others = {
        "GIF": content.startswith((b"GIF87a", b"GIF89a")),
        "WebP": content.startswith(b"RIFF") and content[8:12] == b"WEBP",
        "JPEG 2000": content.startswith((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")),
        "NIfTI": content.startswith(b"\x5c\x01\x00\x00") and content[344:347] in (b"n+1", b"ni1"),
    }
    for name, found in others.items():
        if found:
            raise UnreadableImageError(path, "unsupported format", f"{name}: convert it to PNG")
    raise UnreadableImageError(path, "not an image")


def unreadable(path: str | Path, error: Exception) -> UnreadableImageError:
    text = str(error)
    cut_off = (EOFError, IndexError, struct.error)
    if "truncated" in text.lower() or isinstance(error, cut_off) or isinstance(error.__cause__, cut_off):
        return UnreadableImageError(path, "truncated", text)
    if text.startswith(("cannot handle", "unknown pixel mode", "Unsupported", "unrecognized image mode")):
        return UnreadableImageError(path, "unsupported format", text)
    return UnreadableImageError(path, "damaged", text)


_silence = threading.Lock()
_num_silent = 0
_filters = warnings.catch_warnings()


@contextmanager
def pillow_silent() -> Iterator[None]:
    """Warnings out of Pillow are ignored while any thread is inside; the filters before return with the last one."""
    # One catch_warnings per thread would not do: filters are global, and threads that leave in another order than
    # they came would leave them changed.
    global _num_silent, _filters
    with _silence:
        if _num_silent == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _num_silent += 1
    try:
        yield
    finally:
        with _silence:
            _num_silent -= 1
            if _num_silent == 0:
                _filters.__exit__(None, None, None)
