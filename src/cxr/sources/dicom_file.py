"""What does a DICOM file say before its pixels, read without trusting it?

Only the elements that are asked for are read, the pixels are found and never loaded, a deflated file is inflated up to
a limit only, and a file without preamble and prefix is no DICOM file: pydicom's ``force`` is never used. What pydicom
says of a file quotes its header, and a header names a patient: neither its messages nor its errors leave this module.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

from cxr.errors import ConfigurationError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

MAX_INFLATED = 96 * 1024 * 1024
"""The most bytes that a deflated file may unfold to: a picture of 48 million pixels of 16 bits, and its header."""

_PREFIX: Final = b"DICM"  # PS3.10, 7.1: after a preamble of 128 bytes
_TRANSFER_SYNTAX: Final = 0x00020010
_CHUNK: Final = 2**20  # bytes that are inflated at a time
_UNDEFINED: Final = 0xFFFFFFFF
_PIXELS: Final = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
# How a file without preamble begins: with group 2, or with the first elements in use of group 8.
_NAKED: Final = (
    b"\x02\x00\x00\x00",
    b"\x08\x00\x00\x00",
    b"\x08\x00\x01\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
    b"\x08\x00\x16\x00",
)


DicomReason = Literal[
    "not an image", "unsupported format", "too large", "several frames", "truncated", "damaged", "no codec"
]


class RefusedDicomError(Exception):
    """A file is not read.

    Args:
        reason: one of `DicomReason`.
        detail: numbers and names of the standard; no value that could name a patient.
    """

    def __init__(self, reason: DicomReason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason: DicomReason = reason
        self.detail = detail


@dataclass(frozen=True, eq=False)
class DicomFile:
    """The header of a DICOM file, and where its pixels lie.

    Attributes:
        header: the elements that were asked for, as far as the file has them.
        transfer_syntax: how the pixels are encoded.
        content: the data set, inflated where it was deflated.
        pixels: "PixelData", "FloatPixelData", "DoubleFloatPixelData", or None where the file has no picture.
        start: where the value of the pixels begins in ``content``.
        length: bytes of that value; None where its end is marked instead (encapsulated pixels).
        vr: the type of that value.
    """

    header: Dataset
    transfer_syntax: UID
    content: BinaryIO
    pixels: str | None
    start: int
    length: int | None
    vr: str

    def text(self, keyword: str) -> str | None:
        """The first value of an element as text without blanks around it; None where there is none that can be read."""
        values = self.texts(keyword)
        return values[0] if values else None

    def texts(self, keyword: str) -> list[str]:
        """All values of an element as text; none where it is absent, empty or against the rules of its type."""
        value = self.value(keyword)
        if value is None or isinstance(value, bytes):
            return []
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        # Some writers pad with NUL where blanks are due.
        return [text for text in (str(each).replace("\0", "").strip() for each in values) if text]

    def number(self, keyword: str) -> float | None:
        """The first value of an element as a finite number, else None."""
        text = self.text(keyword)
        try:
            number = float(text) if text is not None else None
        except ValueError:
            return None
        return number if number is not None and abs(number) < float("inf") else None

    def whole(self, keyword: str) -> int | None:
        """The first value of an element as a whole number, else None."""
        number = self.number(keyword)
        return int(number) if number is not None and number == int(number) else None

    def value(self, keyword: str) -> Any:
        """The value of an element as pydicom gives it; None where it is absent or against the rules of its type."""
        try:
            return self.header.get(keyword)
        except Exception:  # pydicom converts a value when it is asked for, and raises whatever that meets
            return None


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file that begins so (132 bytes) has the prefix of DICOM."""
    return start[128:132] == _PREFIX


def lacks_preamble(start: bytes) -> bool:
    """Whether a file that begins so looks like a data set whose preamble was cut off."""
    return start.startswith(_NAKED)


def require_pydicom(what: str) -> None:
    """Make sure that the extra ``dicom`` is there.

    Args:
        what: what needs it, the beginning of the error.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{what} needs pydicom: uv sync --extra dicom, or pip install 'cxr[dicom]'") from error


def read_header(file: BinaryIO, keywords: Sequence[str]) -> DicomFile:
    """Read elements of a DICOM file up to its pixels.

    Args:
        file: open at any place; stays open. pydicom must be there, see `require_pydicom`.
        keywords: of the elements in the standard's spelling; others are passed over without being loaded.

    Raises:
        RefusedDicomError: see there.
    """
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset
    from pydicom.tag import BaseTag
    from pydicom.uid import UID, AllTransferSyntaxes, DeflatedExplicitVRLittleEndian

    file.seek(0)
    if not looks_like_dicom(file.read(132)):
        raise RefusedDicomError("not an image", "no DICOM prefix")
    found: dict[str, Any] = {}

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            found.update(pixels=_PIXELS[tag], start=content.tell(), length=length, vr=vr)
        return tag in _PIXELS

    tags: list[BaseTag | int] = [tag for tag in map(tag_for_keyword, keywords) if tag is not None]
    _silence()
    try:
        # Group 2 is in explicit little endian always (PS3.10, 7.1), and says in what the rest is.
        meta = read_dataset(
            file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2, specific_tags=[_TRANSFER_SYNTAX]
        )
        syntax = UID(str(meta.get("TransferSyntaxUID", "")).strip())
    except MemoryError:
        raise  # says something about the machine, not about the file
    except Exception:
        raise RefusedDicomError("damaged", "its first group cannot be read") from None
    if not file.read(1):
        raise RefusedDicomError("truncated", "it ends within its first group")
    file.seek(-1, io.SEEK_CUR)
    if syntax not in AllTransferSyntaxes:
        named = "no transfer syntax" if not syntax else "a transfer syntax that the standard does not know"
        raise RefusedDicomError("damaged" if not syntax else "unsupported format", named)
    content = _inflated(file) if syntax == DeflatedExplicitVRLittleEndian else file
    try:
        header = read_dataset(
            content, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixels, specific_tags=tags
        )
    except MemoryError:
        raise
    except (struct.error, EOFError):
        raise RefusedDicomError("truncated", "it ends within the header") from None
    except Exception:
        raise RefusedDicomError("damaged", "its header cannot be read") from None
    length = found.get("length", 0)
    return DicomFile(
        header,
        syntax,
        content,
        found.get("pixels"),
        found.get("start", 0),
        None if length == _UNDEFINED else length,
        found.get("vr") or "OW",
    )


def _inflated(file: BinaryIO) -> BinaryIO:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)  # PS3.5, A.5: without the header of zlib
    content = io.BytesIO()
    while not unpacker.eof:
        packed = unpacker.unconsumed_tail or file.read(_CHUNK)
        try:
            unpacked = unpacker.decompress(packed, _CHUNK)
        except zlib.error:
            raise RefusedDicomError("damaged", "it cannot be inflated") from None
        if not packed and not unpacked:
            raise RefusedDicomError("truncated", "its deflated part has no end")
        content.write(unpacked)
        if content.tell() > MAX_INFLATED:
            raise RefusedDicomError("too large", f"it inflates to more than {MAX_INFLATED} bytes")
    content.seek(0)
    return content


def _silence() -> None:
    """pydicom warns and logs in words that quote the header: from now on it does neither in this process."""
    # For good, not while a file is read: filters are global, and threads that set them back would do so in any order.
    for name in ("pydicom", "openjpeg"):  # the second says on the terminal what the reason of a file says
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
