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
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cxr.images.dicom import decode_dicom
from cxr.images.opening import (
    MAX_MEMORY,
    MAX_PIXELS,
    UnreadableImageError,
    dicom_reasons,
    open_header,
    open_image,
    pillow_silent,
    unreadable,
)
from cxr.sources.dicom_file import looks_like_dicom

DECODER_VERSION = 2
"""Raised by one whenever a file may come out with other pixels; prepared caches of other versions are not used."""

_STRIP = 1 << 20  # pixels that are made grey at a time: what lies between costs memory once more


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


def decode_grey(content: bytes, path: str | Path) -> NDArray[np.uint8]:
    """Decode the content of one image file; ``path`` is only named in errors. Otherwise as :func:`read_grey`."""
    if looks_like_dicom(content[:132]):
        with pillow_silent(), dicom_reasons(path):
            return decode_dicom(content, max_pixels=MAX_PIXELS, max_memory=MAX_MEMORY)
    image, _ = open_header(io.BytesIO(content), len(content), path)
    with pillow_silent(), image:
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
            raise unreadable(path, error) from error
        grey = _to_grey(image, rawmode, path)
        return np.ascontiguousarray(_upright(grey, _orientation(image)))


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
