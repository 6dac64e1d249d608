"""Does every kind of DICOM file come out as the picture that the standard has it show, and every other as a reason?"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import struct
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from tests.written_dicom import compressed, deflated, dicom, jpeg, jpeg_stream, lookup_table, with_stream

from cxr.images.cache import prepare_images
from cxr.images.decode import decode_grey
from cxr.images.opening import MAX_PIXELS, REASONS, UnreadableImageError
from cxr.images.prepare import Preparation
from cxr.sources.dicom_file import MAX_INFLATED

SLOPE = np.arange(48 * 80).reshape(48, 80)


@pytest.fixture
def stored() -> NDArray[np.uint16]:
    """12 bits, 0 to 3839 in steps of one: every grey level of a window has its place."""
    return SLOPE.astype(np.uint16)


def shown(file: bytes) -> NDArray[np.uint8]:
    grey = decode_grey(file, "it")
    assert grey.dtype == np.uint8
    assert grey.flags.c_contiguous
    return grey


def reason(file: bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_grey(file, "it")
    assert caught.value.reason in REASONS
    return caught.value.reason


def levels(share: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: str(syntax.name),
)  # fmt: skip
def test_pixels_are_the_same_in_every_encoding_without_compression(syntax: UID, stored: NDArray[np.uint16]) -> None:
    file = dicom(stored, syntax, BitsStored=12, WindowCenter="2048", WindowWidth="4096")
    assert np.array_equal(shown(file), levels(stored / 4095))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize(
    ("syntax", "plugin"), [(RLELossless, "pydicom"), (JPEG2000Lossless, "pylibjpeg")], ids=["RLE", "JPEG 2000"]
)
def test_pixels_are_the_same_under_compression_without_loss(syntax: UID, plugin: str, dtype: type) -> None:
    pixels = (SLOPE // 16 if dtype is np.uint8 else SLOPE - (2000 if dtype is np.int16 else 0)).astype(dtype)
    assert np.array_equal(shown(compressed(pixels, syntax, plugin)), shown(dicom(pixels)))


def test_a_jpeg_is_the_picture_that_it_is_outside_of_dicom() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40)).astype(np.uint8)
    expected = decode_grey(jpeg_stream(pixels), "jpeg")
    assert np.array_equal(shown(jpeg(pixels)), expected)
    assert np.array_equal(shown(jpeg(pixels, PhotometricInterpretation="MONOCHROME1")), 255 - expected)


@pytest.mark.parametrize("elements", [{}, {"WindowCenter": 1500, "WindowWidth": 900}, {"RescaleSlope": -1}])
def test_monochrome1_is_the_inverse(stored: NDArray[np.uint16], elements: dict[str, Any]) -> None:
    if "RescaleSlope" in elements:
        elements = {**elements, "RescaleIntercept": 4095}
    first = shown(dicom(stored, PhotometricInterpretation="MONOCHROME1", **elements))
    second = shown(dicom(stored, PhotometricInterpretation="MONOCHROME2", **elements))
    assert np.ptp(second) > 200
    assert np.abs(255 - first.astype(int) - second).max() <= 1  # half a level rounds to the even one


def test_without_a_window_sixteen_bits_are_as_in_a_png(stored: NDArray[np.uint16]) -> None:
    for pixels in (stored, stored // 4, stored * 17):
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        assert np.array_equal(shown(dicom(pixels)), decode_grey(png.getvalue(), "png"))


def test_signed_pixels_and_values_below_zero_fill_the_range(stored: NDArray[np.uint16]) -> None:
    expected = levels(stored / 3839)
    signed = stored.astype(np.int16) - 1024
    assert np.array_equal(shown(dicom(signed)), expected)
    assert np.array_equal(shown(dicom(stored, RescaleSlope=1, RescaleIntercept=-1024)), expected)


def test_the_window_is_in_rescaled_units() -> None:
    pixels = np.array([[0, 100, 200, 300]], np.uint16)
    # Rescaled: -1000, -800, -600, -400; LINEAR from -801 to -599 (PS3.3, C.11.2.1.2.1), 200 units and one.
    given = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": -700, "WindowWidth": 202}
    share = (-800 - (-700 - 0.5)) / (202 - 1) + 0.5
    assert shown(dicom(pixels, **given)).tolist() == [[0, round(255 * share), round(255 * (1 - share + 1 / 201)), 255]]


def test_the_functions_of_a_window_are_those_of_the_standard(stored: NDArray[np.uint16]) -> None:
    center, width = 1000.0, 400.0
    window = {"WindowCenter": center, "WindowWidth": width}
    linear = (stored - (center - 0.5)) / (width - 1) + 0.5
    exact = (stored - center) / width + 0.5
    sigmoid = 1 / (1 + np.exp(-4 * (stored - center) / width))
    assert np.array_equal(shown(dicom(stored, **window)), levels(linear))
    assert np.array_equal(shown(dicom(stored, VOILUTFunction="LINEAR_EXACT", **window)), levels(exact))
    assert np.array_equal(shown(dicom(stored, VOILUTFunction="SIGMOID", **window)), levels(sigmoid))
    assert not np.array_equal(levels(linear), levels(exact))


def test_the_first_of_several_windows_counts(stored: NDArray[np.uint16]) -> None:
    several = dicom(stored, WindowCenter=[1000, 3000], WindowWidth=[400, 100])
    assert np.array_equal(shown(several), shown(dicom(stored, WindowCenter=1000, WindowWidth=400)))


@pytest.mark.parametrize(
    "window", [(9000, 10), (-9000, 10), (100, 0), (100, -5), (100, 0.5)],
    ids=["above all", "below all", "no width", "less than none", "narrower than a value"],
)  # fmt: skip
def test_a_window_that_shows_nothing_is_passed_over(stored: NDArray[np.uint16], window: tuple[float, float]) -> None:
    assert np.array_equal(shown(dicom(stored, WindowCenter=window[0], WindowWidth=window[1])), shown(dicom(stored)))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_lookup_table_goes_before_the_window(syntax: UID, stored: NDArray[np.uint16]) -> None:
    entries = (4095 - np.arange(4096) ** 2 / 4095).astype(np.uint16)
    words = entries if syntax.is_little_endian else entries.byteswap()
    file = dicom(
        stored, syntax, BitsStored=12, VOILUTSequence=lookup_table(0, words, 12), WindowCenter=10, WindowWidth=20
    )
    assert np.array_equal(shown(file), levels(entries[stored] / 4095))


def test_a_lookup_table_of_eight_bits_may_have_more_entries_than_levels(stored: NDArray[np.uint16]) -> None:
    entries = (np.arange(4096) // 16).astype(np.uint16)
    assert np.array_equal(shown(dicom(stored, VOILUTSequence=lookup_table(0, entries, 8))), stored // 16)


def test_a_lookup_table_holds_its_ends_and_may_begin_below_zero(stored: NDArray[np.uint16]) -> None:
    signed = stored.astype(np.int16) - 2000
    entries = np.arange(1000, dtype=np.uint16) * 65
    expected = entries[np.clip(signed + 500, 0, 999)] / 65535
    file = dicom(signed, VOILUTSequence=lookup_table(-500, entries, 16))
    assert np.array_equal(shown(file), levels(expected))


def test_modality_and_voi_tables_follow_each_other(stored: NDArray[np.uint16]) -> None:
    halved, squared = np.arange(4096) // 2, np.arange(2048) ** 2 // 1024
    file = dicom(
        stored,
        ModalityLUTSequence=lookup_table(0, halved.astype(np.uint16), 16),
        VOILUTSequence=lookup_table(0, squared.astype(np.uint16), 12),
    )
    assert np.array_equal(shown(file), levels(squared[halved[stored]] / 4095))


def test_padding_is_black_and_no_part_of_the_range() -> None:
    pixels = np.array([[-2000, -1999, -100, 0, 100]], np.int16)
    assert shown(dicom(pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)).tolist() == [[0, 0, 0, 128, 255]]
    inverted = dicom(
        pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990, PhotometricInterpretation="MONOCHROME1"
    )
    assert shown(inverted).tolist() == [[0, 0, 255, 128, 0]]


def test_bits_that_are_not_stored_say_nothing(stored: NDArray[np.uint16]) -> None:
    with_overlay = stored | (np.uint16(1) << 14) * (stored % 3 == 0).astype(np.uint16)
    assert np.array_equal(shown(dicom(with_overlay, BitsStored=12)), shown(dicom(stored, BitsStored=12)))


def test_colour_becomes_luma_as_elsewhere() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    assert np.array_equal(shown(dicom(pixels)), decode_grey(png.getvalue(), "png"))


def test_a_single_frame_may_be_counted(stored: NDArray[np.uint16]) -> None:
    assert np.array_equal(shown(dicom(stored, NumberOfFrames=1)), shown(dicom(stored)))


def frames(number: int) -> bytes:
    return dicom(np.zeros((8 * number, 8), np.uint8), Rows=8, NumberOfFrames=number)


def jpeg2000(side: int) -> bytes:
    file = compressed(np.zeros((side, side), np.uint8), JPEG2000Lossless, "pylibjpeg")
    start = file.index(b"\xff\x4f\xff\x51")
    return file[start : file.rindex(b"\xff\xd9") + 2]


def rle_bomb(num_bytes: int) -> bytes:
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * (num_bytes // 2)


SMALL = np.zeros((16, 16), np.uint8)
NOISE = np.random.default_rng(2).integers(0, 256, (64, 64)).astype(np.uint8)
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "several frames": (lambda: frames(3), "several frames"),
    "no frame": (lambda: dicom(SMALL, NumberOfFrames=0), "damaged"),
    "a report without a picture": (
        lambda: dicom(SMALL, Rows=None, Columns=None, PixelData=None), "not an image"
    ),
    "cut off before the pixels": (lambda: dicom(SMALL, PixelData=None), "truncated"),
    "cut off within the pixels": (lambda: dicom(NOISE)[:-1], "truncated"),
    "fewer pixels than rows": (lambda: dicom(SMALL, Rows=17), "truncated"),
    "cut off within a fragment": (lambda: jpeg(NOISE)[:-200], "truncated"),
    "cut off before the end of the fragments": (lambda: jpeg(NOISE)[:-8], "truncated"),
    "a JPEG without its end": (
        lambda: with_stream(jpeg_stream(NOISE)[:-400], NOISE, JPEGBaseline8Bit), "truncated"
    ),
    "a JPEG 2000 without its end": (
        lambda: with_stream(jpeg2000(64)[:-40], NOISE, JPEG2000), "truncated"
    ),
    "a deflated file without its end": (
        lambda: dicom(NOISE, DeflatedExplicitVRLittleEndian)[:-100], "truncated"
    ),
    "a deflated file that is none": (lambda: deflated(b"")[:-2] + b"\xff" * 50, "damaged"),
    "absurd rows and columns": (lambda: dicom(SMALL, Rows=65535, Columns=65535), "too large"),
    "absurd rows and columns of a JPEG": (
        lambda: with_stream(jpeg_stream(SMALL), SMALL, JPEGBaseline8Bit, Rows=65535, Columns=65535), "too large"
    ),
    "no rows": (lambda: dicom(SMALL, Rows=0), "damaged"),
    "a JPEG of another size": (lambda: with_stream(jpeg_stream(NOISE), SMALL, JPEGBaseline8Bit), "damaged"),
    "a JPEG 2000 of another size": (lambda: with_stream(jpeg2000(64), SMALL, JPEG2000Lossless), "damaged"),
    "noise for a JPEG": (lambda: with_stream(NOISE.tobytes(), NOISE, JPEGBaseline8Bit), "damaged"),
    "noise for a JPEG 2000": (lambda: with_stream(NOISE.tobytes(), NOISE, JPEG2000Lossless), "damaged"),
    "noise for a high-throughput JPEG 2000": (
        lambda: with_stream(NOISE.tobytes(), NOISE, HTJ2KLossless), "damaged"
    ),
    "pixels beside a compression": (lambda: _relabelled(dicom(SMALL), JPEGBaseline8Bit), "damaged"),
    "an RLE segment too long": (lambda: with_stream(rle_bomb(10_000), SMALL, RLELossless), "damaged"),
    "an RLE segment too short": (lambda: with_stream(rle_bomb(2), SMALL, RLELossless), "truncated"),
    "JPEG without loss": (
        lambda: with_stream(_lossless(SMALL), SMALL, JPEGLosslessSV1), "no codec"
    ),
    "JPEG of twelve bits": (
        lambda: with_stream(jpeg_stream(SMALL), SMALL.astype(np.uint16), JPEGExtended12Bit, BitsStored=12), "no codec"
    ),
    "a film": (lambda: with_stream(NOISE.tobytes(), SMALL, MPEG2MPML), "unsupported format"),
    "32 bits": (lambda: dicom(np.zeros((4, 4), np.uint32)), "unsupported format"),
    "one bit": (lambda: dicom(SMALL, BitsAllocated=1, BitsStored=1), "unsupported format"),
    "palette": (lambda: dicom(SMALL, PhotometricInterpretation="PALETTE COLOR"), "unsupported format"),
    "bits at the upper end": (
        lambda: dicom(SMALL.astype(np.uint16), BitsStored=12, HighBit=15), "unsupported format"
    ),
    "floating-point pixels": (
        lambda: dicom(SMALL, PixelData=None, FloatPixelData=np.zeros((16, 16), "<f4").tobytes()), "unsupported format"
    ),
    "a lookup table without entries": (
        lambda: dicom(SMALL + np.arange(16, dtype=np.uint8),
                      VOILUTSequence=lookup_table(0, np.zeros(0, np.uint16), 16)), "damaged"
    ),
    "no transfer syntax": (lambda: _relabelled(dicom(SMALL), UID("")), "damaged"),
    "an unknown transfer syntax": (lambda: _relabelled(dicom(SMALL), UID("1.2.3.4")), "unsupported format"),
    "no preamble": (lambda: dicom(SMALL)[132:], "not an image"),
    "text": (lambda: b"patientId,Target\n1,0\n" * 20, "not an image"),
    "the prefix alone": (lambda: bytes(128) + b"DICM", "truncated"),
}  # fmt: skip


def _relabelled(file: bytes, syntax: UID) -> bytes:
    old = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    text = str(syntax).encode() + b"\0" * (len(syntax) % 2)
    new = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(text)) + text
    (length,) = struct.unpack_from("<L", file, 140)
    return (file[:140] + struct.pack("<L", length + len(new) - len(old)) + file[144:]).replace(old, new)


def _lossless(pixels: NDArray[np.uint8]) -> bytes:
    """The head and the end of a lossless JPEG: nothing at hand writes one, and nothing may read it."""
    height, width = pixels.shape
    return b"\xff\xd8\xff\xc3" + struct.pack(">HBHHBBBB", 11, 8, height, width, 1, 1, 0x11, 0) + b"\xff\xd9"


@pytest.mark.parametrize(("make", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_gives_no_picture_gives_its_reason(make: Callable[[], bytes], expected: str) -> None:
    assert reason(make()) == expected


def test_what_lacks_a_codec_says_what_to_add() -> None:
    with pytest.raises(UnreadableImageError, match=r"pylibjpeg-libjpeg.*python-gdcm"):
        decode_grey(with_stream(_lossless(SMALL), SMALL, JPEGLosslessSV1), "it")


def test_the_limit_of_the_size_is_exact() -> None:
    side = int(MAX_PIXELS**0.5)
    assert side**2 == MAX_PIXELS
    assert reason(dicom(SMALL, Rows=side, Columns=side + 1)) == "too large"
    assert reason(dicom(SMALL, Rows=side, Columns=side)) == "truncated"


@pytest.mark.parametrize(
    "make",
    [
        lambda: deflated(bytes(MAX_INFLATED + 1)),
        lambda: with_stream(rle_bomb(8_000_000), SMALL, RLELossless),
        lambda: dicom(SMALL, Rows=60000, Columns=60000),
        lambda: with_stream(_huge(jpeg2000(64)), NOISE, JPEG2000Lossless),
    ],
    ids=["deflated", "RLE", "rows", "JPEG 2000"],
)
def test_memory_stays_bounded_under_bombs(make: Callable[[], bytes]) -> None:
    file = make()
    assert len(file) < 10_000_000
    tracemalloc.start()
    try:
        assert reason(file) in ("too large", "damaged")
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()


def _huge(stream: bytes) -> bytes:
    start = stream.index(b"\xff\x51") + 6
    return stream[:start] + struct.pack(">2L", 60000, 60000) + stream[start + 8 :]


def test_wherever_a_file_is_cut_off_it_is_a_reason(stored: NDArray[np.uint16]) -> None:
    for whole in (dicom(stored[:9, :9], WindowCenter=20, WindowWidth=30), jpeg(NOISE[:9, :9]),
                  compressed(NOISE[:32, :32], JPEG2000Lossless, "pylibjpeg"),
                  compressed(NOISE[:9, :9], RLELossless, "pydicom")):  # fmt: skip
        for length in range(0, len(whole) - 8, 5):
            assert reason(whole[:length]) in ("truncated", "damaged", "not an image", "empty file")


def test_flipped_bytes_raise_nothing_but_reasons() -> None:
    generator = np.random.default_rng(3)
    for whole in (dicom(NOISE[:9, :9], VOILUTSequence=lookup_table(0, np.arange(256, dtype=np.uint16), 8)),
                  jpeg(NOISE[:9, :9]), compressed(NOISE[:9, :9], RLELossless, "pydicom")):  # fmt: skip
        for _ in range(150):
            broken = bytearray(whole)
            for place in generator.integers(132, len(whole), 3):
                broken[place] = generator.integers(256)
            with contextlib.suppress(UnreadableImageError):
                assert decode_grey(bytes(broken), "it").dtype == np.uint8


def test_no_word_of_a_header_is_said(caplog: pytest.LogCaptureFixture) -> None:
    texts = {"PatientName": "Canary^Bird", "PatientID": "Canary", "PatientBirthDate": "Canary"}
    # pydicom writes no words for numbers: they are put in their place.
    numbers = {
        "WindowCenter": "111111",
        "WindowWidth": "222222",
        "RescaleSlope": "333333",
        "RescaleIntercept": "444444",
    }

    def named(photometric: str) -> bytes:
        file = dicom(SMALL, PhotometricInterpretation=photometric, **texts, **numbers)
        for number in numbers.values():
            assert file.count(number.encode()) == 1
            file = file.replace(number.encode(), b"Canary")
        return file

    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(UnreadableImageError) as refused:
            decode_grey(named("CANARY"), "it")
        decode_grey(named("MONOCHROME2"), "it")
    said = [str(refused.value), repr(refused.value.__cause__), caplog.text, *(str(each.message) for each in caught)]
    assert not [text for text in said if "canary" in text.lower()]


def test_a_prepared_cache_tries_again_what_lacked_a_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readable, not_yet = tmp_path / "a.dcm", tmp_path / "b.dcm"
    readable.write_bytes(dicom(NOISE))
    not_yet.write_bytes(with_stream(_lossless(SMALL), SMALL, JPEGLosslessSV1))
    paths = [str(readable), str(not_yet)]
    sha256 = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]
    cache = tmp_path / "cache"

    def prepared() -> list[tuple[str, str]]:
        images = prepare_images(paths, sha256, Preparation(32), cache, progress=False)
        assert images.num_unique == 1
        return images.unreadable

    assert prepared() == [(str(not_yet), "no codec")]
    before = set(cache.glob("*.json"))
    assert prepared()
    assert set(cache.glob("*.json")) == before
    # A package of that name that is none: it is found, and so the file is tried again, which is all that can be seen.
    (tmp_path / "packages" / "jpeg_ls").mkdir(parents=True)
    (tmp_path / "packages" / "jpeg_ls" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert prepared() == [(str(not_yet), "no codec")]
    assert set(cache.glob("*.json")) > before
    assert "jpeg_ls" not in sys.modules
