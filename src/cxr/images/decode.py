"""Which grey picture does a file show, whatever its format, depth, colours and orientation?

What is made of what:

- Colour becomes luma (ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B). A JPEG gives the luma that it stores instead of
  going through RGB. Over the 186 colour JPEGs of covid-chestxray-dataset that were at hand the two differ by 0.0006
  grey levels on average; by more than 2 levels in 6 of 100,000 pixels, by up to 35, all in 24 files (RGB clips
  saturated colours: arrows, stamps). Over the 5,840 of chest_xray they are equal.
- A JPEG is never decoded at a reduced scale: over the 159 of the same JPEGs that can be (to no less than twice the
  size asked for) it changed the picture prepared at 224 pixels by up to 47 levels (median of the worst pixel: 6), and
  saved a sixth of the decoding time.
- Transparency, also that of a palette, lies over black.
- 16 bits: the smallest of 8, 10, 12, 14 and 16 bits that holds the maximum is mapped to 0..255 linearly, as detectors
  store 10 to 14 bits in such files. Signed, 32-bit and float values: the finite range is mapped to 0..255; NaN is
  black.
- 16-bit *colour* keeps its upper eight bits; where the brightest of them stays below 64, the file holds 14 bits or
  fewer, most of its grey levels would be lost, and it is refused.
- TIFF in which zero is white is inverted. Orientation (EXIF) is applied. Colour profiles and gamma are ignored.
- A file of several frames or pages is refused, since nothing says which one was meant. In a JPEG that carries further
  pictures (MPO) the first is by definition the one to show.
- What a file costs in memory is worked out from its header, before anything of it is decoded: one that would take more
  than ``MAX_MEMORY`` is refused, and the files that threads decode at once never take more than that together.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from cxr.errors import DataError
from cxr.images.dicom import decode_dicom, dicom_memory
from cxr.sources.dicom_file import RefusedDicomError, looks_like_dicom

DECODER_VERSION = 2
"""Raised by one whenever a file may come out with other pixels; prepared caches of other versions are not used."""

MAX_PIXELS = 64 * 1024 * 1024
"""The largest picture that is decoded, in pixels; the largest in covid-chestxray-dataset has 18 million."""

MAX_MEMORY = 384 * 1024**2
"""What decoding takes at most, in bytes, all threads together: the file, its pixels and the grey picture."""

MAX_BYTES = MAX_MEMORY // 4
"""The largest file that is read, in bytes; a text within it may for a moment be there four times (in Pillow)."""

_MAX_TAG_VALUES = 1 << 20  # of one tag of a TIFF: tiles of 8 x 8 in the largest picture
_STRIP = 1 << 20  # pixels that are made grey at a time: what lies between costs memory once more

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


def read_grey(path: str | Path) -> NDArray[np.uint8]:
    """Read one image file as grey pixels, upright.

    Args:
        path: JPEG, PNG, TIFF, BMP or DICOM (see `cxr.images.dicom`), recognised by its content; the name and its suffix
            do not matter.

    Returns:
        uint8 (height, width), 0 black to 255 white, C-contiguous.

    Raises:
        UnreadableImageError: with a reason out of ``REASONS``.
        ConfigurationError: a DICOM file, without the extra that reads it.
    """
    with open_image(path) as file:
        return decode_grey(file.read(), path)


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
            with _memory.of(4 * num_bytes):
                needed = _needed_memory(file, num_bytes, path)
            with _memory.of(needed):
                file.seek(0)
                yield file
    except OSError as error:
        raise UnreadableImageError(path, "cannot be opened", error.strerror or str(error)) from error


def decode_grey(content: bytes, path: str | Path) -> NDArray[np.uint8]:
    """Decode the content of one image file; ``path`` is only named in errors. Otherwise as :func:`read_grey`."""
    if looks_like_dicom(content[:132]):
        _needed_memory(io.BytesIO(content), len(content), path)
        with _pillow_silent(), _dicom_reasons(path):
            return decode_dicom(content, max_pixels=MAX_PIXELS)
    with _pillow_silent(), _open(io.BytesIO(content), path) as image:
        _require_memory(_pillow_memory(image, len(content), path), image.size, path)
        try:
            if isinstance(image, JpegImageFile):
                image.draft("L", None)
            rawmode = _rawmode(image)
            if isinstance(image, PngImageFile):
                _check_png_sums(content)
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise _unreadable(path, error) from error
        grey = _to_grey(image, rawmode, path)
        return np.ascontiguousarray(_upright(grey, _orientation(image)))


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


def _open(file: BinaryIO, path: str | Path) -> ImageFile:
    """The header of a file, its pixels still undecoded."""
    opener = _opener(file.read(352), path)
    try:
        if opener is TiffImageFile:
            _check_tiff_tags(file)
        file.seek(0)
        return opener(file)
    except MemoryError:
        raise  # says something about the machine, not about the file
    except Exception as error:  # Pillow's readers raise whatever a damaged header makes them stumble over
        raise _unreadable(path, error) from error


def _needed_memory(file: BinaryIO, num_bytes: int, path: str | Path) -> int:
    """What the decoding of a file takes, in bytes, by its header alone; refuses a file that takes too much."""
    start = file.read(132)
    file.seek(0)
    if looks_like_dicom(start):
        with _dicom_reasons(path):
            needed, size = dicom_memory(file, num_bytes, max_pixels=MAX_PIXELS)
    else:
        with _pillow_silent(), _open(file, path) as image:
            needed, size = _pillow_memory(image, num_bytes, path), image.size
    return _require_memory(needed, size, path)


def _require_memory(needed: int, size: tuple[int, int], path: str | Path) -> int:
    if needed > MAX_MEMORY:
        raise UnreadableImageError(
            path, "too large", f"{size[0]} x {size[1]} would take {needed} bytes of memory, the limit is {MAX_MEMORY}"
        )
    return needed


@contextmanager
def _dicom_reasons(path: str | Path) -> Iterator[None]:
    try:
        yield
    except RefusedDicomError as error:
        raise UnreadableImageError(path, error.reason, error.detail) from None


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


def _unreadable(path: str | Path, error: Exception) -> UnreadableImageError:
    text = str(error)
    cut_off = (EOFError, IndexError, struct.error)
    if "truncated" in text.lower() or isinstance(error, cut_off) or isinstance(error.__cause__, cut_off):
        return UnreadableImageError(path, "truncated", text)
    if text.startswith(("cannot handle", "unknown pixel mode", "Unsupported", "unrecognized image mode")):
        return UnreadableImageError(path, "unsupported format", text)
    return UnreadableImageError(path, "damaged", text)


def _check_png_sums(content: bytes) -> None:
    """Pillow decodes pixels without their checksums; a flipped bit would go unseen."""
    position = 8
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 8 + length
        if content[position + 4 : position + 8] == b"IDAT" and end + 4 <= len(content):
            (stored,) = struct.unpack_from(">I", content, end)
            if zlib.crc32(memoryview(content)[position + 4 : end]) != stored:
                raise OSError("the checksum of the pixels is wrong")
        position = end + 4


def _rawmode(image: ImageFile) -> str:
    """How the pixels lie in the file, in Pillow's words; it is forgotten once they are decoded."""
    args = image.tile[0].args if image.tile else None
    return str(args[0] if isinstance(args, tuple) else args)


def _to_grey(image: ImageFile, rawmode: str, path: str | Path) -> NDArray[np.uint8]:
    """Grey of decoded pixels, some rows at a time: a whole picture in another mode would cost its memory again."""
    hidden = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        scale = _scale_of(image, path)
        # Pillow inverts 8 bits itself, and only these.
        zero_is_white = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0

        def convert(part: Image.Image) -> NDArray[np.uint8]:
            values = np.asarray(part)
            grey = 255 - scale(values) if zero_is_white else scale(values)
            return np.where(values == hidden, np.uint8(0), grey) if isinstance(hidden, int) else grey

        return _in_strips(image, convert)

    deep = ";16" in rawmode
    if deep and isinstance(hidden, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in hidden)  # the pixels kept these bits too
    try:
        luma = _in_strips(image, lambda part: np.asarray(_luma_over_black(part)))
    except ValueError as error:
        raise UnreadableImageError(path, "unsupported format", str(error)) from error
    if deep and luma.max() < 64:
        raise UnreadableImageError(path, "16-bit colour below full range", "convert it to 16-bit grey or to 8 bits")
    return luma


def _in_strips(image: ImageFile, convert: Callable[[Image.Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if image.width * image.height <= _STRIP:
        return convert(image)
    grey = np.empty((image.height, image.width), np.uint8)
    for top, part in _strips(image):
        grey[top : top + part.height] = convert(part)
    return grey


def _strips(image: ImageFile) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _luma_over_black(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        return image.getchannel(0)
    hidden = image.info.get("transparency")
    if image.mode in ("P", "PA", "La", "RGBa") or (hidden is not None and image.mode in ("1", "L", "RGB")):
        image = image.convert("RGBA")
    luma = image.convert("L")
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            luma = ImageChops.multiply(luma, alpha)
    return luma


def _scale_of(image: ImageFile, path: str | Path) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """What makes values of more than 8 bits grey; the lowest and the highest of the whole picture decide."""
    low, high, whole = np.inf, -np.inf, True
    for _, part in _strips(image):
        values = np.asarray(part)
        whole = whole and np.issubdtype(values.dtype, np.integer)
        finite = values if whole else values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        raise UnreadableImageError(path, "no finite values")
    if whole and low >= 0 and high <= 65535:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)
        table: NDArray[np.uint8] = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
        return lambda values: np.take(table, values)
    return lambda values: _scale_range(values, low, high)


def _scale_range(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    exact = values.astype(np.float64)
    if low == high:
        return np.zeros(exact.shape, np.uint8)
    clipped: NDArray[np.float64] = np.clip(np.nan_to_num(exact, nan=low, posinf=high, neginf=low), low, high)
    grey: NDArray[np.uint8] = np.rint((clipped - low) * (255 / (high - low))).astype(np.uint8)
    return grey


def _orientation(image: ImageFile) -> int:
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns a TIFF while loading it
    try:
        return int(image.getexif().get(274, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _upright(grey: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    # EXIF 2.3, tag 274: which side of the scene the first row and the first column of the file show.
    if orientation in (5, 6, 7, 8):
        grey = grey.T
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    return grey


_silence = threading.Lock()
_num_silent = 0
_filters = warnings.catch_warnings()


@contextmanager
def _pillow_silent() -> Iterator[None]:
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
