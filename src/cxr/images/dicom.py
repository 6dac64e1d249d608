"""Which grey picture does a DICOM file show?

As the standard has it shown (PS3.4, N.2): the stored values go through the modality LUT or the rescale slope and
intercept, then through the first VOI LUT, or the first window where there is none; MONOCHROME1 is inverted. What that
makes of every value that occurs is put in a table first, so that a picture of any size is looked up once.

- A window that leaves one grey level where the stored values have several, or that is no window (a width below 1), is
  passed over.
- Without LUT and window it is as for other files of 16 bits (`cxr.images.decode`): the smallest of 8, 10, 12, 14 and
  16 bits that holds the maximum is mapped to 0..255, and where there are values below zero, their range.
- Padding (Pixel Padding Value and its limit) is black, and no part of that range.
- Colour (RGB, YBR, 8 bits) becomes luma as in other files.
- Overlays and shutters are not drawn; Patient Orientation and Presentation LUT Shape turn and invert nothing: for
  the pictures that radiographs are the standard lets them say only what the pixels and MONOCHROME1 say already.

Before a decoder sees a byte the header must name one frame of a size within the limit, 8 to 16 bits, and the
compressed stream the very same size.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr.images.dicom_stream import read_stream, require_runs, size_of_jpeg, size_of_jpeg2000
from cxr.sources.dicom_file import DicomFile, RefusedDicomError, read_header, require_pydicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KEYWORDS: Final = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
)
_BLOCK: Final = 2**20  # pixels that are looked up at a time
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
# Packages that read what the extra does not, by the name under which Python finds them.
_FURTHER_CODECS: Final = {"libjpeg": "pylibjpeg-libjpeg", "gdcm": "python-gdcm", "jpeg_ls": "pyjpegls"}


@dataclass(frozen=True)
class _Shape:
    """What the header says of the array of pixels."""

    columns: int
    rows: int
    samples: int
    bits_allocated: int
    bits_stored: int
    photometric: str


def further_codecs() -> list[str]:
    """The packages at hand that read what the extra ``dicom`` does not: which files have a picture hangs on them."""
    return [package for module, package in _FURTHER_CODECS.items() if find_spec(module) is not None]


def decode_dicom(content: bytes, *, max_pixels: int, max_memory: int) -> NDArray[np.uint8]:
    """Decode the content of a DICOM file.

    Args:
        content: of the whole file.
        max_pixels: a larger picture is refused.
        max_memory: one that takes more bytes, its content included, is refused.

    Returns:
        uint8 (height, width), 0 black to 255 white, C-contiguous.

    Raises:
        RefusedDicomError: the file gives no picture; see its reasons.
        ConfigurationError: pydicom is not there.
    """
    require_pydicom("a DICOM file")
    file = read_header(io.BytesIO(content), KEYWORDS)
    shape = _shape(file, max_pixels)
    _memory(file, shape, len(content), max_memory)
    values = _stored_values(file, shape)
    if shape.samples == 3:
        return np.ascontiguousarray(np.asarray(Image.fromarray(values).convert("L")))
    return _shown(values, file, shape)


def dicom_memory(file: BinaryIO, num_bytes: int, *, max_pixels: int, max_memory: int) -> int:
    """What `decode_dicom` takes for a file, in bytes, its content included, by its header alone.

    Args:
        file: open at any place.
        num_bytes: of the file.
        max_pixels, max_memory: see `decode_dicom`.

    Raises:
        RefusedDicomError, ConfigurationError: see `decode_dicom`.
    """
    require_pydicom("a DICOM file")
    header = read_header(file, KEYWORDS)
    return _memory(header, _shape(header, max_pixels), num_bytes, max_memory)


def _memory(header: DicomFile, shape: _Shape, num_bytes: int, max_memory: int) -> int:
    pixels = shape.rows * shape.columns
    stored = pixels * shape.samples * (shape.bits_allocated // 8)
    if header.transfer_syntax.is_encapsulated:
        # The stream, joined and wrapped again; decoders work on integers of 32 bits (OpenJPEG).
        needed = 3 * num_bytes + 4 * pixels * shape.samples + 2 * stored
    else:
        inflated = header.content.seek(0, io.SEEK_END) if header.transfer_syntax.is_deflated else 0
        needed = num_bytes + inflated + 2 * stored
    grey = pixels * (1 if shape.samples == 1 else 6)  # colour is copied with a fourth channel on its way to luma
    if needed + grey > max_memory:
        raise RefusedDicomError(
            "too large",
            f"{shape.columns} x {shape.rows} would take {needed + grey} bytes of memory, the limit is {max_memory}",
        )
    return needed + grey


def _shape(file: DicomFile, max_pixels: int) -> _Shape:
    """What the header says of the pixels, if it is a picture that is read at all."""
    if file.pixels is None and file.whole("Rows") is not None:
        raise RefusedDicomError("truncated", "it ends before its pixels")
    if file.pixels is None:
        raise RefusedDicomError("not an image", "a DICOM file without a picture")
    if file.pixels != "PixelData":
        raise RefusedDicomError("unsupported format", "its pixels are floating-point numbers")
    frames = file.whole("NumberOfFrames")
    if frames is not None and frames > 1:
        raise RefusedDicomError("several frames", f"{frames} frames")
    needed = ("Columns", "Rows", "BitsAllocated", "BitsStored", "HighBit")
    columns, rows, allocated, stored, high_bit = (file.whole(keyword) or 0 for keyword in needed)
    if min(columns, rows, allocated, stored) < 1 or frames not in (None, 1):
        raise RefusedDicomError("damaged", "its header does not say how its pixels lie")
    if rows * columns > max_pixels:
        raise RefusedDicomError("too large", f"{columns} x {rows}, the limit is {max_pixels} pixels")
    photometric = file.text("PhotometricInterpretation") or ""
    samples = file.whole("SamplesPerPixel")
    samples = 1 if samples is None else samples
    is_grey = samples == 1 and photometric in _GREY and allocated in (8, 16) and 1 < stored <= allocated
    is_grey = is_grey and high_bit == stored - 1
    is_colour = samples == 3 and photometric in _COLOUR and allocated == stored == 8
    if not is_grey and not is_colour:
        known = photometric if photometric in (*_GREY, *_COLOUR, "PALETTE COLOR") else "another"
        raise RefusedDicomError(
            "unsupported format", f"{samples} samples of {stored} bits in {allocated}, photometric {known}"
        )
    return _Shape(columns, rows, samples, allocated, stored, photometric)


def _stored_values(file: DicomFile, shape: _Shape) -> NDArray[Any]:
    """(rows, columns) integers of 8 or 16 bits as they are stored, or (rows, columns, 3) uint8 RGB."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    syntax, header = file.transfer_syntax, file.header
    num_bytes = file.content.seek(0, io.SEEK_END)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise RefusedDicomError("unsupported format", f"its pixels are {syntax.name}") from None
    if syntax.is_encapsulated:
        if file.length is not None:
            raise RefusedDicomError("damaged", "its pixels are no sequence of fragments")
        stream = read_stream(file.content, file.start, num_bytes)
        precision = _require_stream(file, shape, stream)
        # The plug-ins for Pillow and GDCM read the 8 bits of this one only, and say so only once they have begun.
        is_deep = syntax == JPEGExtended12Bit and max(precision, shape.bits_stored) > 8
        if not decoder.is_available or (is_deep and "pylibjpeg" not in decoder.available_plugins):
            raise RefusedDicomError(
                "no codec",
                f"{syntax.name}: needs a further package ({', '.join(_FURTHER_CODECS.values())}), see docs/dicom.md",
            )
        header.add_new("PixelData", "OB", encapsulate([stream], has_bot=False))
    else:
        length = shape.rows * shape.columns * shape.samples * shape.bits_allocated // 8
        if file.length is None:
            raise RefusedDicomError("damaged", "the length of its pixels is not given")
        if min(file.length, num_bytes - file.start) < length:
            raise RefusedDicomError("truncated", f"its pixels would take {length} bytes")
        file.content.seek(file.start)
        header.add_new("PixelData", file.vr, file.content.read(length))
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.NumberOfFrames = 1
    try:
        values, _ = decoder.as_array(header, index=0)
    except MemoryError:
        raise  # says something about the machine, not about the file
    except Exception:  # decoders raise whatever a damaged stream makes them stumble over
        raise RefusedDicomError("damaged", f"its pixels ({syntax.name}) cannot be decoded") from None
    is_right = values.shape[:2] == (shape.rows, shape.columns) and values.ndim == (2 if shape.samples == 1 else 3)
    if not is_right or values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        raise RefusedDicomError("damaged", "its pixels are not those of its header")
    return values


def _require_stream(file: DicomFile, shape: _Shape, stream: bytes) -> int:
    """Refuse a stream that is not what the header says; its bits per sample."""
    from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

    if file.transfer_syntax == RLELossless:
        require_runs(stream, shape.rows * shape.columns)
        return shape.bits_stored
    size_of = size_of_jpeg2000 if file.transfer_syntax in JPEG2000TransferSyntaxes else size_of_jpeg
    width, height, precision = size_of(stream)
    if (width, height) != (shape.columns, shape.rows):
        raise RefusedDicomError(
            "damaged", f"{shape.columns} x {shape.rows} by its header, {width} x {height} by its pixels"
        )
    return precision


def _shown(values: NDArray[Any], file: DicomFile, shape: _Shape) -> NDArray[np.uint8]:
    """(rows, columns) grey levels of stored values."""
    # A table of the values that occur, by their bits; in blocks, for an index takes eight bytes a pixel.
    bits = values.view(f"u{values.dtype.itemsize}")
    num_codes = 2 ** (8 * values.dtype.itemsize)
    num_rows = _BLOCK // shape.columns + 1
    blocks = [slice(first, first + num_rows) for first in range(0, shape.rows, num_rows)]
    occurs = np.zeros(num_codes, np.bool_)
    for block in blocks:
        occurs[bits[block]] = True
    every = np.arange(num_codes).astype(bits.dtype).view(values.dtype).astype(np.int64)
    occurs &= ~_is_padding(every, file)
    table = np.zeros(num_codes, np.uint8)
    if occurs.any():
        share = _share_of_white(_rescaled(every[occurs], file), file)
        table[occurs] = np.rint(255 * (1 - share if shape.photometric == "MONOCHROME1" else share))
    grey = np.empty(values.shape, np.uint8)
    for block in blocks:
        grey[block] = table[bits[block]]
    return grey


def _is_padding(every: NDArray[np.int64], file: DicomFile) -> NDArray[np.bool_]:
    """Which of the values fill the room outside the picture (PS3.3, C.7.5.1.1.2)."""
    one = file.whole("PixelPaddingValue")
    if one is None:
        return np.zeros(every.shape, np.bool_)
    other = file.whole("PixelPaddingRangeLimit")
    # Its type follows the sign of the pixels, and where the file leaves types out pydicom cannot know.
    ends = [end - 65536 if every.min() < 0 and end > 32767 else end for end in (one, one if other is None else other)]
    return np.asarray((every >= min(ends)) & (every <= max(ends)))


def _rescaled(values: NDArray[np.int64], file: DicomFile) -> NDArray[np.float64]:
    """Stored values by the modality LUT or the rescale slope and intercept (PS3.3, C.11.1)."""
    luts = file.value("ModalityLUTSequence")
    if luts:
        return _looked_up(values.astype(np.float64), luts[0], file)
    slope, intercept = file.number("RescaleSlope"), file.number("RescaleIntercept")
    slope = 1.0 if slope is None or slope == 0 else slope
    return np.asarray(values * slope + (0.0 if intercept is None else intercept), np.float64)


def _share_of_white(values: NDArray[np.float64], file: DicomFile) -> NDArray[np.float64]:
    """Rescaled values by the VOI LUT, the window, or as they are (PS3.3, C.11.2): 0 black to 1 white."""
    luts = file.value("VOILUTSequence")
    if luts:
        found = _looked_up(values, luts[0], file)
        share: NDArray[np.float64] | None = found / _full_scale(float(found.max()))
    else:
        share = _windowed(values, file)
    if share is not None and (len(values) == 1 or share.min() < share.max()):
        return share
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535:
        return values / _full_scale(high)
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _full_scale(maximum: float) -> int:
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if maximum <= 2**bits - 1)


def _windowed(values: NDArray[np.float64], file: DicomFile) -> NDArray[np.float64] | None:
    """Values under the first window (PS3.3, C.11.2.1.2 and C.11.2.1.3), 0..1; None where there is none that is one."""
    center, width = file.number("WindowCenter"), file.number("WindowWidth")
    if center is None or width is None or width <= 0:
        return None
    function = (file.text("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width < 1:
        return None
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _looked_up(values: NDArray[np.float64], item: Dataset, file: DicomFile) -> NDArray[np.float64]:
    """Values by a lookup table (PS3.3, C.11.1.1 and C.11.2.1.1).

    Not by pydicom, which (3.0.2) counts the entries in the type of their values: 4096 entries of 8 bits run over.
    """
    try:
        number, first, bits = (int(number) for number in item.LUTDescriptor)
        data = item.LUTData
        if not isinstance(data, bytes):
            data = np.atleast_1d(np.asarray(data, np.int64)).astype(_words(file)).tobytes()
    except Exception:
        raise RefusedDicomError("damaged", "a lookup table cannot be read") from None
    number = number or 65536
    if first > 32767 and values.min() < 0:
        first -= 65536  # as the pixels are signed, so is this; where the file leaves types out pydicom cannot know
    if len(data) >= 2 * number:
        entries = np.frombuffer(data, _words(file), number)
    elif bits == 8 and len(data) >= number:
        entries = np.frombuffer(data, np.uint8, number)  # two in a word
    else:
        raise RefusedDicomError("damaged", "a lookup table is shorter than it says")
    places = np.clip(np.rint(values) - first, 0, number - 1).astype(np.int64)
    return np.asarray(entries[places], np.float64)


def _words(file: DicomFile) -> np.dtype[np.uint16]:
    return np.dtype("<u2" if file.transfer_syntax.is_little_endian else ">u2")
