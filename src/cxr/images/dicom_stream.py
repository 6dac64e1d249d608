"""Is a compressed picture in a DICOM file whole, and as large as its header says, before a decoder sees it?

Decoders make room for what the stream says, not for what the header says, and some return what they have of a stream
that was cut off. So its own head is read first: ISO/IEC 10918-1, B.2.2 (JPEG) and 14495-1, C.2.2 (JPEG-LS): a frame
header; ISO/IEC 15444-1, A.5.1 (JPEG 2000): the marker SIZ; DICOM PS3.5, G (RLE): the sum of the runs.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

from cxr.sources.dicom_file import RefusedDicomError

_ITEM: Final = 0xFFFEE000
_END: Final = 0xFFFEE0DD
_FRAME_HEADERS: Final = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}  # SOF0-15 of JPEG, SOF55 of JPEG-LS
_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xDA)))
_RLE_HEADER: Final = struct.Struct("<16L")


def read_stream(content: BinaryIO, start: int, num_bytes: int) -> bytes:
    """The compressed stream of the only frame: its fragments, joined (PS3.5, A.4).

    Args:
        content: the data set.
        start: where the value of Pixel Data begins.
        num_bytes: in ``content``.

    Raises:
        RefusedDicomError: "truncated" where the sequence of fragments has no end, "damaged" where it is none.
    """
    content.seek(start)
    fragments: list[bytes] = []
    while True:
        head = content.read(8)
        if len(head) < 8:
            raise RefusedDicomError("truncated", "its pixels have no end")
        group, element, length = struct.unpack("<HHL", head)
        tag = group << 16 | element
        if tag == _END:
            break
        if tag != _ITEM or length == 0xFFFFFFFF:
            raise RefusedDicomError("damaged", "its pixels are no sequence of fragments")
        if content.tell() + length > num_bytes:
            raise RefusedDicomError("truncated", "its pixels end within a fragment")
        fragments.append(content.read(length))
    stream = b"".join(fragments[1:])  # the first is the offset table
    if not stream:
        raise RefusedDicomError("truncated", "it has no pixels")
    return stream


def size_of_jpeg(stream: bytes) -> tuple[int, int, int]:
    """Width and height in pixels and bits per sample of a JPEG or JPEG-LS.

    Raises:
        RefusedDicomError: "truncated" where it has no end or no frame header, "damaged" where it is none.
    """
    if not stream.startswith(b"\xff\xd8"):
        raise RefusedDicomError("damaged", "its pixels are no JPEG stream")
    if not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise RefusedDicomError("truncated", "its JPEG stream has no end")
    place = 2
    while place + 4 <= len(stream):
        if stream[place] != 0xFF:
            break
        marker = stream[place + 1]
        if marker == 0xFF:  # fill
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        elif marker in _FRAME_HEADERS and place + 9 <= len(stream):
            precision, height, width = struct.unpack_from(">BHH", stream, place + 4)
            return width, height, precision
        else:
            place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    raise RefusedDicomError("damaged", "its JPEG stream has no frame header")


def size_of_jpeg2000(stream: bytes) -> tuple[int, int, int]:
    """Width and height in pixels and bits of the first component of a JPEG 2000.

    Raises:
        RefusedDicomError: "truncated" where it has no end, "damaged" where it is none.
    """
    place = stream.find(b"\xff\x4f\xff\x51", 0, 4096)  # some writers leave the boxes of a JP2 file around the stream
    if place < 0 or place + 43 > len(stream):
        raise RefusedDicomError("damaged", "its pixels are no JPEG 2000 stream")
    if not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise RefusedDicomError("truncated", "its JPEG 2000 stream has no end")
    right, bottom, left, top = struct.unpack_from(">4L", stream, place + 8)
    return right - left, bottom - top, (stream[place + 42] & 0x7F) + 1


def require_runs(stream: bytes, num_pixels: int) -> None:
    """Refuse an RLE stream that unfolds to more than its segments should hold.

    Args:
        stream: its header and segments.
        num_pixels: that each segment should unfold to.

    Raises:
        RefusedDicomError: "damaged" where it holds more or has no header, "truncated" where it holds less.
    """
    if len(stream) < _RLE_HEADER.size:
        raise RefusedDicomError("truncated", "its RLE header is cut off")
    number, *offsets = _RLE_HEADER.unpack_from(stream)
    if not 1 <= number <= 15 or any(not _RLE_HEADER.size <= offset < len(stream) for offset in offsets[:number]):
        raise RefusedDicomError("damaged", "its RLE header is wrong")
    ends = [*offsets[1:number], len(stream)]
    for first, end in zip(offsets, ends, strict=False):
        unfolded = _unfolded(stream, first, end, num_pixels + 256)
        if unfolded < num_pixels:
            raise RefusedDicomError("truncated", "an RLE segment ends too early")
        if unfolded > num_pixels + 256:  # a byte that pads the segment may look like one more run
            raise RefusedDicomError("damaged", "an RLE segment holds more than the picture")


def _unfolded(stream: bytes, place: int, end: int, limit: int) -> int:
    total = 0
    while place < end and total <= limit:
        head = stream[place]
        if head < 128:
            total += min(head + 1, end - place - 1)
            place += head + 2
        else:
            total += 257 - head if head > 128 else 0
            place += 2 if head > 128 else 1
    return total
