"""Picture files that Pillow does not write: made by hand, byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Chunk = tuple[bytes, bytes]


def saved(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """What Pillow writes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, packed: bytes, chunks: Iterable[Chunk] = ()) -> bytes:
    """A PNG of rows that are packed already."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(png_chunk(*chunk) for chunk in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + middle
        + png_chunk(b"IDAT", packed)
        + png_chunk(b"IEND", b"")
    )


def png_rows(samples: NDArray[Any]) -> bytes:
    """Rows of (height, width) or (height, width, channels) samples, packed."""
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in big_endian))


def zeros(num_bytes: int) -> bytes:
    """So many zeros, packed, without ever holding them."""
    packer = zlib.compressobj(1)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(num_bytes >> 20)]
    return b"".join([*parts, packer.compress(bytes(num_bytes & 0xFFFFF)), packer.flush()])


def black_png(width: int, height: int, depth: int, colour: int, chunks: Iterable[Chunk] = ()) -> bytes:
    """A whole PNG of zeros, a thousandth of the size of its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return png(width, height, depth, colour, zeros(height * (1 + width * channels * depth // 8)), chunks)


def tiff(data: bytes, *tags: tuple[int, int, int, int]) -> bytes:
    """A little-endian TIFF: its data at byte 8, then one directory of tags (tag, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiff_tags(width: int, height: int, bits: int, num_bytes: int, *, kind: int = 1, packing: int = 1) -> dict[int, int]:
    """Tags of a grey TIFF of one strip: kind 1 whole numbers, 2 signed, 3 float; packing 1 none, 8 deflate."""
    return {
        256: width,
        257: height,
        258: bits,
        259: packing,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: num_bytes,
        339: kind,
    }


def longs(tags: dict[int, int]) -> list[tuple[int, int, int, int]]:
    return [(tag, 4, 1, value) for tag, value in tags.items()]


def grey_tiff(samples: NDArray[Any], **changed: int) -> bytes:
    """An uncompressed grey TIFF of any depth; ``changed`` by ``t<tag>``."""
    height, width = samples.shape
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    tags = tiff_tags(width, height, samples.dtype.itemsize * 8, len(data), kind=kind)
    return tiff(data, *longs(tags | {int(name[1:]): value for name, value in changed.items()}))


def black_tiff(width: int, height: int, bits: int, *, kind: int = 1, **changed: int) -> bytes:
    """A deflated grey TIFF of zeros."""
    data = zeros(width * height * bits // 8)
    tags = tiff_tags(width, height, bits, len(data), kind=kind, packing=8)
    return tiff(data, *longs(tags | {int(name[1:]): value for name, value in changed.items()}))


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG that says it is of another size."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        place = jpeg.find(marker)
        if place >= 0:
            return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]
    raise ValueError("no frame in this JPEG")


def turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


def scene(side: int = 16) -> NDArray[np.uint8]:
    """Smooth, without any symmetry, from 0 to 255."""
    rows, columns = np.mgrid[:side, :side]
    values = 2.0 * rows + columns + 12 * (rows < side // 4) * (columns < side // 3)
    return np.rint((values - values.min()) * 255 / (values.max() - values.min())).astype(np.uint8)
