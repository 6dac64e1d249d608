"""Does every kind of file in a folder come out as the right picture, or as a row that says why not?"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.fault.hostile_pictures import (
    black_tiff,
    grey_tiff,
    longs,
    png,
    png_chunk,
    png_rows,
    saved,
    scene,
    tiff,
    tiff_tags,
    turned,
    with_size,
    zeros,
)

from cxr.pipeline.datamodule import CXRDataModule

pytestmark = pytest.mark.fault

SIDE = 16
SCENE = scene(SIDE)
RGB = np.dstack([SCENE] * 3)
LEVEL = np.equal(SCENE, SCENE[8, 8])
HALF = np.full_like(SCENE, 128)
DEEP = SCENE.astype(np.uint16) * 257
TWELVE = np.rint(SCENE * (4095 / 255)).astype(np.uint16)
# EXIF 2.3, tag 274: what has to be done to the scene to get the rows of the file.
STORED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: upright.T[::-1],
    7: lambda upright: upright.T[::-1, ::-1],
    8: lambda upright: upright.T[:, ::-1],
}


def pages(kind: str, **options: Any) -> bytes:
    second = Image.fromarray(255 - SCENE)  # a new one each time: Pillow leaves settings of a format in it
    return saved(Image.fromarray(SCENE), kind, save_all=True, append_images=[second], **options)


def palette() -> Image.Image:
    image = Image.fromarray(255 - SCENE).convert("P")
    image.putpalette([level for index in range(256) for level in (255 - index,) * 3])
    return image


# Name of the file -> its bytes and the grey picture that it shows.
GOOD: dict[str, tuple[bytes, NDArray[Any]]] = {
    "16_bits.png": (png(SIDE, SIDE, 16, 0, png_rows(DEEP)), SCENE),
    "12_of_16_bits.png": (png(SIDE, SIDE, 16, 0, png_rows(TWELVE)), SCENE),
    "16_bits.tif": (grey_tiff(DEEP), SCENE),
    "signed.tif": (grey_tiff(SCENE.astype(np.int16) - 1000), SCENE),
    "32_bits.tif": (grey_tiff(SCENE.astype(np.uint32) * 1000), SCENE),
    "float.tif": (grey_tiff(SCENE.astype(np.float32) / 7 - 3), SCENE),
    "float_with_nan.tif": (
        grey_tiff(np.where(LEVEL, np.nan, SCENE).astype(np.float32)),
        np.where(LEVEL, 0, SCENE),
    ),
    "white_is_zero.tif": (grey_tiff(255 - SCENE, t262=0), SCENE),
    "1_bit.png": (saved(Image.fromarray(SCENE > 99), "PNG"), np.where(SCENE > 99, 255, 0)),
    "rgba.png": (saved(np.dstack([RGB, HALF]), "PNG"), np.rint(SCENE * (128 / 255))),
    "rgba.tif": (saved(np.dstack([RGB, HALF]), "TIFF"), np.rint(SCENE * (128 / 255))),
    "grey_with_alpha.png": (
        saved(Image.merge("LA", (Image.fromarray(SCENE), Image.fromarray(HALF))), "PNG"),
        np.rint(SCENE * (128 / 255)),
    ),
    "16_bit_colour.png": (png(SIDE, SIDE, 16, 2, png_rows(np.dstack([DEEP] * 3))), SCENE),
    "cmyk.jpg": (saved(Image.fromarray(SCENE).convert("CMYK"), "JPEG", quality=98), SCENE),
    "cmyk.tif": (saved(Image.fromarray(SCENE).convert("CMYK"), "TIFF"), SCENE),
    "palette.png": (saved(palette(), "PNG"), SCENE),
    "palette.bmp": (saved(palette(), "BMP"), SCENE),
    "interlaced_name.png.jpg": (saved(SCENE, "PNG"), SCENE),
    "png_called.jpg": (saved(SCENE, "PNG"), SCENE),
    "jpeg_called.png": (saved(SCENE, "JPEG", quality=98), SCENE),
    "tiff_called.bmp": (saved(SCENE, "TIFF", compression="tiff_lzw"), SCENE),
    "first_of_several.jpg": (pages("MPO", quality=98), SCENE),
    **{
        f"turned_{value}.{kind.lower()}": (
            saved(np.ascontiguousarray(store(SCENE)), kind, exif=turned(value), **({} if kind == "PNG" else LOSS)),
            SCENE,
        )
        for value, store in STORED.items()
        for kind, LOSS in (("PNG", {}), ("JPEG", {"quality": 98}))
    },
}

JPEG = saved(RGB, "JPEG", quality=90)
PNG = saved(SCENE, "PNG")
FLIPPED = bytearray(PNG)
FLIPPED[PNG.index(b"IDAT") + 12] ^= 16
NIFTI = b"\x5c\x01\x00\x00" + bytes(340) + b"n+1\0" + bytes(64)
MUCH = struct.pack(">I", 0x7FFFFFF0)

# Name of the file -> its bytes and the reason code.
BAD: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "empty file"),
    "empty.jpg": (b"", "empty file"),
    "one_byte.jpg": (b"\xff", "not an image"),
    "page.png": (b"<html>404 not found</html>", "not an image"),
    "text.jpg": (b"see the other folder\n", "not an image"),
    "zeros.tif": (bytes(4096), "not an image"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\n", "not an image"),
    "volume_called.png": (NIFTI, "not an image"),
    "packed_volume_called.png": (gzip.compress(NIFTI, mtime=0), "not an image"),
    "animation.gif": (pages("GIF"), "unsupported format"),
    "web.webp": (saved(Image.fromarray(RGB), "WEBP"), "unsupported format"),
    "cut.png": (PNG[: len(PNG) // 2], "truncated"),
    "cut_in_header.png": (PNG[:20], "truncated"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "cut.tif": (grey_tiff(SCENE)[:60], "truncated"),
    "cut.bmp": (saved(SCENE, "BMP")[:-100], "truncated"),
    "flipped_bit.png": (bytes(FLIPPED), "damaged"),
    "no_pixels.png": (PNG[:33] + png_chunk(b"IEND", b""), "damaged"),
    "of_no_width.png": (png(0, 10, 8, 0, zlib.compress(b"")), "damaged"),
    "pages.tif": (pages("TIFF"), "several frames"),
    "frames.png": (pages("PNG"), "several frames"),
    "all_nan.tif": (grey_tiff(np.full((4, 4), np.nan, np.float32)), "no finite values"),
    "dark_16_bit_colour.png": (
        png(3, 1, 16, 2, png_rows(np.full((1, 3, 3), 4095, np.uint16))),
        "16-bit colour below full range",
    ),
    "huge.png": (png(60_000, 60_000, 8, 0, b""), "too large"),
    "wide.png": (png(0x7FFFFFFF, 1, 8, 0, b""), "too large"),
    "huge.jpg": (with_size(JPEG, 65_000, 65_000), "too large"),
    "huge.bmp": (
        saved(SCENE, "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + saved(SCENE, "BMP")[26:],
        "too large",
    ),
    "huge.tif": (grey_tiff(SCENE, t256=60_000, t257=60_000), "too large"),
    "huge_tile.tif": (
        tiff(b"", *longs(tiff_tags(16, 16, 8, 64, packing=8) | {322: 40_000, 323: 40_000, 324: 8, 325: 64})),
        "too large",
    ),
    "float_of_most_pixels.tif": (black_tiff(16, 16, 32, kind=3, t256=8000, t257=8000, t278=8000), "too large"),
    "progressive_of_most_pixels.jpg": (
        with_size(saved(RGB, "JPEG", progressive=True, subsampling=0), 8000, 8000),
        "too large",
    ),
    "million_strips.tif": (
        tiff(bytes(64), *longs({**tiff_tags(16, 16, 8, 64), 278: 16}), (324, 4, 200_000_000, 8)),
        "damaged",
    ),
    "text_bomb.png": (
        png(SIDE, SIDE, 8, 0, png_rows(SCENE), [(b"zTXt", b"Comment\0\0" + zeros(64 << 20))]),
        "damaged",
    ),
    "endless_chunk.png": (PNG[:33] + MUCH + b"tEXt" + b"a" * 100, "truncated"),
    "directory_in_itself.tif": (
        struct.pack("<4sI", b"II*\0", 8) + struct.pack("<H", 0) + struct.pack("<I", 8),
        "damaged",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CXRDataModule:
    """All of them in one folder, read as an evaluation reads them."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "covid").mkdir()
    for name, (content, _) in {**GOOD, **BAD}.items():
        (folder / "covid" / name).write_bytes(content)
    data = CXRDataModule(
        {"own": {"kind": "class_folders", "root": str(folder), "patient": "none"}},
        cache_dir=folder.parent / "cache",
        image_size=SIDE,
        max_unreadable=1.0,
        progress=False,
    )
    data.setup("predict")
    return data


@pytest.fixture(scope="module")
def served(data: CXRDataModule) -> dict[str, NDArray[np.uint8]]:
    """Name of the file -> the picture that a network gets."""
    return {
        data.records["image"][int(record)]: picture[0].numpy()
        for batch in data.predict_dataloader()
        for record, picture in zip(batch["index"], batch["image"], strict=True)
    }


@pytest.mark.parametrize("name", GOOD)
def test_a_picture_of_any_kind_is_what_it_shows(served: dict[str, NDArray[np.uint8]], name: str) -> None:
    content, expected = GOOD[name]
    lossy = content.startswith(b"\xff\xd8")
    difference = np.abs(served[f"covid/{name}"].astype(float) - expected)
    assert difference.mean() <= (2.0 if lossy else 0.5)
    assert difference.max() <= (24 if lossy else 1)


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_shows_nothing_is_a_row_with_a_reason_code(data: CXRDataModule, name: str) -> None:
    rows = data.dropped[data.dropped["image"] == f"covid/{name}"]
    assert rows[["source", "reason", "detail"]].to_numpy().tolist() == [["own", "unreadable", BAD[name][1]]]


def test_every_file_is_kept_or_accounted_for(data: CXRDataModule) -> None:
    assert len(data.records) == len(GOOD)
    assert len(data.dropped) == len(BAD)
    account = data.accounting.iloc[0]
    assert account["kept"] + account["unreadable"] == account["rows"]
    (told,) = [note for note in data.notes if "unreadable files" in note]
    for reason in {reason for _, reason in BAD.values()}:
        assert f"{sum(one == reason for _, one in BAD.values())} {reason}" in told
