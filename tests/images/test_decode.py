"""Does every kind of file come out as the right grey picture, and every bad file as a reason?"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cxr.images.decode import decode_grey, read_grey
from cxr.images.opening import MAX_PIXELS, REASONS, UnreadableImageError

Grey = NDArray[np.uint8]


@pytest.fixture
def picture() -> Grey:
    """Smooth, without any symmetry, darkest at 0 and brightest at 255."""
    rows, columns = np.mgrid[:48, :80]
    values = 2.0 * rows + columns + 30 * (rows < 10) * (columns < 20)
    return np.rint((values - values.min()) * 255 / (values.max() - values.min())).astype(np.uint8)


def saved(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: Pillow writes no 16-bit colour and no frames that are not there."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(*each) for each in chunks)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def png_rows(samples: NDArray[Any]) -> bytes:
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big_endian)


def tiff(samples: NDArray[Any], photometric: int) -> bytes:
    """A minimal uncompressed grey TIFF, written by hand: Pillow does not write white-is-zero for 16 bits."""
    height, width = samples.shape
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    tags = [(256, width), (257, height), (258, samples.dtype.itemsize * 8), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(data)), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def reason(content: bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_grey(content, "the file")
    assert caught.value.reason in REASONS
    assert caught.value.exit_status == 3
    assert str(caught.value).startswith("the file: ")
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "L", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {}),
        ("BMP", "L", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "L", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "L", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"compression": "tiff_deflate"}),
    ],
)
def test_lossless_file_gives_exactly_its_grey_levels(
    picture: Grey, kind: str, mode: str, options: dict[str, Any]
) -> None:
    image = Image.fromarray(picture).convert(mode)
    assert np.array_equal(decode_grey(saved(image, kind, **options), "x"), picture)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_gives_its_grey_levels_within_its_loss(picture: Grey, mode: str, progressive: bool) -> None:
    content = saved(Image.fromarray(picture).convert(mode), "JPEG", quality=98, progressive=progressive)
    decoded = decode_grey(content, "x")
    assert np.abs(decoded.astype(int) - picture).mean() < 1.5
    assert decoded.shape == picture.shape


def test_result_is_writable_by_nobody_elses_memory_and_contiguous(picture: Grey) -> None:
    decoded = decode_grey(saved(picture, "JPEG", exif=orientation_block(6)), "x")
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


def test_one_bit_becomes_black_and_white(picture: Grey) -> None:
    bits = picture > 100
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode_grey(saved(Image.fromarray(bits), kind), "x"), np.where(bits, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_colour_becomes_luma(kind: str) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [180, 120, 200]], np.uint8)
    block = np.repeat(np.repeat(colours[None], 16, 0), 16, 1)
    decoded = decode_grey(saved(block, kind, **({"quality": 98, "subsampling": 0} if kind == "JPEG" else {})), "x")
    expected = colours @ np.array([0.299, 0.587, 0.114])
    assert np.allclose(decoded.reshape(16, 4, 16).mean(axis=(0, 2)), expected, atol=1.5)


def test_transparent_pixels_are_black_and_half_transparent_ones_half_as_bright(picture: Grey) -> None:
    alpha = np.full_like(picture, 255)
    alpha[:10], alpha[10:20] = 0, 128
    expected = np.rint(picture * (alpha / 255.0)).astype(int)
    rgba = np.dstack([picture, picture, picture, alpha])
    la = Image.merge("LA", (Image.fromarray(picture), Image.fromarray(alpha)))
    for content in (saved(rgba, "PNG"), saved(la, "PNG"), saved(rgba, "TIFF")):
        assert np.abs(decode_grey(content, "x") - expected).max() <= 1


def test_palette_is_looked_up_and_its_transparency_is_black() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8)).convert("P")
    image.putpalette([200, 200, 200, 10, 10, 10, 255, 0, 0, 60, 60, 60])
    assert decode_grey(saved(image, "PNG"), "x").tolist() == [[200, 10], [76, 60]]
    one_index = saved(image, "PNG", transparency=0)
    assert decode_grey(one_index, "x").tolist() == [[0, 10], [76, 60]]
    a_table = saved(image, "PNG", transparency=bytes([255, 255, 0, 128]))
    assert decode_grey(a_table, "x").tolist() == [[200, 10], [0, 30]]


def test_transparent_colour_key_is_black() -> None:
    grey = np.array([[7, 90], [90, 255]], np.uint8)
    assert decode_grey(saved(grey, "PNG", transparency=90), "x").tolist() == [[7, 0], [0, 255]]
    rgb = np.dstack([grey] * 3)
    assert decode_grey(saved(rgb, "PNG", transparency=(255, 255, 255)), "x").tolist() == [[7, 90], [90, 0]]
    deep = np.array([[100, 4095]], np.uint16)
    content = png(2, 1, 16, 0, png_rows(deep), (b"tRNS", struct.pack(">H", 4095)))
    assert decode_grey(content, "x").tolist() == [[6, 0]]
    deep_rgb = png_rows((np.array([[40000] * 3, [65535] * 3], np.uint16))[None])
    content = png(2, 1, 16, 2, deep_rgb, (b"tRNS", struct.pack(">HHH", 40000, 40000, 40000)))
    assert decode_grey(content, "x").tolist() == [[0, 255]]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_deep_grey_is_scaled_by_the_depth_that_it_uses(bits: int) -> None:
    top = 2**bits - 1
    samples = np.array([[0, top // 4, top // 2, top]], np.uint16)
    for content in (png(4, 1, 16, 0, png_rows(samples)), tiff(samples, 1), saved(samples, "TIFF")):
        decoded = decode_grey(content, "x")
        assert np.abs(decoded - samples * 255.0 / top).max() <= 0.5


def test_brightness_of_deep_grey_does_not_depend_on_its_own_maximum() -> None:
    # Were each image stretched to its maximum, two exposures of one detector would no longer be comparable.
    dark, bright = np.array([[500, 2100]], np.uint16), np.array([[500, 4000]], np.uint16)
    assert decode_grey(tiff(dark, 1), "x")[0, 0] == decode_grey(tiff(bright, 1), "x")[0, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_in_which_zero_is_white_is_inverted(dtype: type) -> None:
    top = {np.uint8: 255, np.uint16: 4095, np.float32: 1}[dtype]
    samples = np.array([[0, top / 5, top]]).astype(dtype)
    inverted = decode_grey(tiff(samples, 0), "x").astype(int)
    assert np.array_equal(255 - inverted, decode_grey(tiff(samples, 1), "x"))
    assert inverted[0].tolist() == [255, 204, 0]


def test_full_range_sixteen_bit_colour_keeps_its_upper_bits() -> None:
    samples = np.array([[[0] * 3, [0x8000] * 3, [0xFFFF] * 3]], np.uint16)
    assert decode_grey(png(3, 1, 16, 2, png_rows(samples)), "x").tolist() == [[0, 128, 255]]


def test_twelve_bits_in_sixteen_bit_colour_are_refused_rather_than_shown_black() -> None:
    samples = np.full((1, 3, 3), 4095, np.uint16)
    assert reason(png(3, 1, 16, 2, png_rows(samples))) == "16-bit colour below full range"


def test_float_uses_its_finite_range() -> None:
    samples = np.array([[-1000.0, 0.0, 1000.0], [np.nan, np.inf, -np.inf]], np.float32)
    assert decode_grey(tiff(samples, 1), "x").tolist() == [[0, 128, 255], [0, 255, 0]]
    assert decode_grey(tiff(np.full((2, 2), 7.5, np.float32), 1), "x").tolist() == [[0, 0], [0, 0]]
    assert reason(tiff(np.full((2, 2), np.nan, np.float32), 1)) == "no finite values"


def test_signed_values_use_their_range() -> None:
    samples = np.array([[-1024, 0, 1024]], np.int16)
    assert decode_grey(tiff(samples, 1), "x").tolist() == [[0, 128, 255]]


def orientation_block(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


# EXIF 2.3, tag 274: the side of the scene that the file's first row and first column show.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_stored(upright: Grey, value: int) -> Grey:
    first_row, first_column = SIDES[value]
    rows_are_scene_rows = first_row in ("top", "bottom")
    stored = upright if rows_are_scene_rows else upright.T
    if first_row in ("bottom", "right"):
        stored = stored[::-1]
    if first_column in ("bottom", "right"):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


@pytest.mark.parametrize("value", SIDES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_orientation_is_applied(picture: Grey, kind: str, value: int) -> None:
    options: dict[str, Any] = {"tiffinfo": {274: value}} if kind == "TIFF" else {"exif": orientation_block(value)}
    decoded = decode_grey(saved(as_stored(picture, value), kind, **options), "x")
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).mean() < (1.5 if kind == "JPEG" else 1e-9)


def test_damaged_exif_leaves_the_pixels_readable(picture: Grey) -> None:
    content = saved(picture, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(decode_grey(content, "x"), picture)


def test_content_decides_not_the_name(picture: Grey, tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.JPG"
    path.write_bytes(saved(picture, "PNG"))
    assert np.array_equal(read_grey(path), picture)
    assert np.array_equal(read_grey(str(path)), picture)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_truncated_anywhere_it_is_refused(picture: Grey, kind: str) -> None:
    content = saved(picture, kind)
    end = len(content) - 24  # the last bytes of a PNG close it and carry no pixels
    reasons = {reason(content[:cut]) for cut in range(20, end, max(1, end // 60))}
    assert "truncated" in reasons
    assert reasons <= {"truncated", "damaged"}
    assert reason(content[: len(content) // 2]) == "truncated"


def test_flipped_bits_in_the_pixels_of_a_png_are_noticed(picture: Grey) -> None:
    content = saved(picture, "PNG")
    start, end = content.index(b"IDAT") + 4, content.index(b"IEND") - 8
    for position in range(start, end, 13):
        changed = bytearray(content)
        changed[position] ^= 16
        assert reason(bytes(changed)) == "damaged"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"<html>404 not found</html>", "not an image"),
        (b"\x00" * 500, "not an image"),
        (b"\x00" * 128 + b"DICM" + b"\x00" * 50, "damaged"),
        (b"GIF89a" + b"\x00" * 50, "unsupported format"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "unsupported format"),
        (b"\xff\xd8\xff", "damaged"),
        (b"BM", "truncated"),
    ],
)
def test_what_is_no_picture_has_a_reason_that_can_be_counted(content: bytes, expected: str) -> None:
    assert reason(content) == expected


def test_several_pages_or_frames_are_refused(picture: Grey) -> None:
    pages = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    assert reason(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])) == "several frames"
    assert reason(saved(pages[0], "PNG", save_all=True, append_images=pages[1:])) == "several frames"


def test_first_picture_of_an_mpo_is_the_one(picture: Grey) -> None:
    pages = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    decoded = decode_grey(saved(pages[0], "MPO", save_all=True, append_images=pages[1:], quality=98), "x")
    assert np.abs(decoded.astype(int) - picture).mean() < 1.5


def test_absurd_size_is_refused_from_the_header_alone() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    claims = png(side, side, 8, 0, b"\0" * 10)
    assert len(claims) < 200
    assert reason(claims) == "too large"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(UnreadableImageError) as caught:
            read_grey(path)
        assert caught.value.reason == "cannot be opened"
        assert str(path) in str(caught.value)


def test_error_survives_pickling() -> None:
    error = UnreadableImageError(Path("a.png"), "truncated", "3 bytes\nleft")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.reason, str(copy)) == ("a.png", "truncated", "a.png: truncated (3 bytes left)")


WARNS = """
import sys, warnings
from PIL import Image
from cxr.images.decode import read_grey
limit = Image.MAX_IMAGE_PIXELS
for name in sys.argv[1:]:
    read_grey(name)
assert Image.MAX_IMAGE_PIXELS == limit
warnings.warn("the user's own")
"""


def test_pillow_warnings_never_reach_the_terminal_but_others_do(picture: Grey, tmp_path: Path) -> None:
    image = Image.fromarray(picture).convert("P")
    table = tmp_path / "table.png"
    table.write_bytes(saved(image, "PNG", transparency=bytes(range(256))))
    exif = tmp_path / "exif.jpg"
    exif.write_bytes(saved(picture, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0"))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(tiff(picture, 1)[:-30])  # its tags stand at its end
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for path in (exif, cut):  # the files do make Pillow warn
            with contextlib.suppress(OSError), Image.open(path) as opened:
                opened.getexif()
    assert len(seen) >= 2
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", WARNS, str(table), str(exif), str(cut)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the user's own" in done.stderr
    assert "PIL" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_threads_decode_side_by_side_and_leave_the_warning_filters_alone(picture: Grey) -> None:
    contents = [saved(picture, "PNG"), saved(picture, "TIFF"), saved(picture, "PNG")[:-60], saved(picture, "BMP")]
    before = list(warnings.filters)
    wrong: list[int] = []

    def work(turn: int) -> None:
        for step in range(60):
            which = (turn + step) % 4
            try:
                good = np.array_equal(decode_grey(contents[which], "x"), picture) and which != 2
            except UnreadableImageError:
                good = which == 2
            if not good:
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert list(warnings.filters) == before


def test_images_floor_does_not_import_torch() -> None:
    code = "import sys, cxr.images.cache; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.real_data
def test_every_real_radiograph_is_readable() -> None:
    root = os.environ.get("CXR_REAL_DATA")
    if not root:
        pytest.skip("CXR_REAL_DATA is not set")
    paths = sorted((Path(root) / "covid-chestxray-dataset" / "images").iterdir())
    paths += sorted((Path(root) / "chest_xray").rglob("*.jpeg"))[::40]
    assert len(paths) > 100
    for path in paths:
        with Image.open(path) as image:
            upright = {image.size, image.size[::-1]} if image.getexif().get(274, 1) > 4 else {image.size}
        grey = read_grey(path)
        assert grey.shape[::-1] in upright
        assert grey.std() > 5
