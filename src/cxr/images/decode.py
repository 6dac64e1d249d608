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
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cxr.errors import DataError
from cxr.images.dicom import decode_dicom
from cxr.sources.dicom_file import RefusedDicomError, looks_like_dicom

DECODER_VERSION = 2
"""Raised by one whenever a file may come out with other pixels; prepared caches of other versions are not used."""

MAX_PIXELS = 64 * 1024 * 1024
"""The largest picture that is decoded, in pixels; the largest in covid-chestxray-dataset has 18 million."""

MAX_BYTES = 1024**3
"""The largest file that is read, in bytes: twice ``MAX_PIXELS`` pixels of uncompressed 16-bit RGBA."""

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
    return decode_grey(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """The content of a file that may be an image.

    Raises:
        UnreadableImageError: "cannot be opened", or "too large" above ``MAX_BYTES``.
    """
    try:
        num_bytes = Path(path).stat().st_size
        if num_bytes > MAX_BYTES:
            raise UnreadableImageError(path, "too large", f"{num_bytes} bytes, the limit is {MAX_BYTES}")
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(path, "cannot be opened", error.strerror or str(error)) from error


def decode_grey(content: bytes, path: str | Path) -> NDArray[np.uint8]:
    """Decode the content of one image file; ``path`` is only named in errors. Otherwise as :func:`read_grey`."""
    if looks_like_dicom(content[:132]):
        return _decode_dicom(content, path)
    opener = _opener(content, path)
    with _pillow_silent():
        try:
            image = opener(io.BytesIO(content))
        except MemoryError:
            raise  # says something about the machine, not about the file
        except Exception as error:  # Pillow's readers raise whatever a damaged header makes them stumble over
            raise _unreadable(path, error) from error
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImageError(path, "too large", f"{width} x {height}, the limit is {MAX_PIXELS} pixels")
            if getattr(image, "is_animated", False):
                raise UnreadableImageError(path, "several frames")
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


def _decode_dicom(content: bytes, path: str | Path) -> NDArray[np.uint8]:
    with _pillow_silent():
        try:
            return decode_dicom(content, max_pixels=MAX_PIXELS)
        except RefusedDicomError as error:
            raise UnreadableImageError(path, error.reason, error.detail) from None


def _opener(content: bytes, path: str | Path) -> Callable[[io.BytesIO], ImageFile]:
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
    zero_is_white = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= 65535:
            grey = _scale_depth(values)
        else:
            grey = _scale_range(values, path)
        grey = 255 - grey if zero_is_white else grey  # Pillow does so itself for 8 bits, and only there
        hidden = image.info.get("transparency")
        return np.where(values == hidden, np.uint8(0), grey) if isinstance(hidden, int) else grey

    try:
        luma = np.asarray(_luma_over_black(image, deep=";16" in rawmode))
    except ValueError as error:
        raise UnreadableImageError(path, "unsupported format", str(error)) from error
    if ";16" in rawmode and luma.max() < 64:
        raise UnreadableImageError(path, "16-bit colour below full range", "convert it to 16-bit grey or to 8 bits")
    return luma


def _luma_over_black(image: Image.Image, *, deep: bool) -> Image.Image:
    if image.mode == "LAB":
        return image.getchannel(0)
    hidden = image.info.get("transparency")
    if deep and isinstance(hidden, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in hidden)  # the pixels kept these bits too
    if image.mode in ("P", "PA", "La", "RGBa") or (hidden is not None and image.mode in ("1", "L", "RGB")):
        image = image.convert("RGBA")
    luma = image.convert("L")
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            luma = ImageChops.multiply(luma, alpha)
    return luma


def _scale_depth(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    maximum = int(values.max())
    bits = next(bits for bits in (8, 10, 12, 14, 16) if maximum < 2**bits)
    table: NDArray[np.uint8] = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
    grey: NDArray[np.uint8] = table[values]
    return grey


def _scale_range(values: NDArray[np.generic], path: str | Path) -> NDArray[np.uint8]:
    exact = values.astype(np.float64)
    finite = np.isfinite(exact)
    if not finite.any():
        raise UnreadableImageError(path, "no finite values")
    low, high = exact[finite].min(), exact[finite].max()
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
