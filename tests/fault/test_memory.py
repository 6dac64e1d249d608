"""Does memory stay bounded, whatever a file claims to hold?  Each file is decoded in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless
from tests.fault.hostile_pictures import black_png, black_tiff, longs, png, saved, tiff, tiff_tags, with_size, zeros
from tests.written_dicom import compressed, deflated, dicom

pytestmark = [
    pytest.mark.fault,
    pytest.mark.timeout(900),  # of gigabytes that are unpacked, most of them by the first test
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peak memory from /proc"),
]

LIMIT = 500_000_000  # bytes above the start

# Each folder in a process of its own, whose peak begins at what it has when it starts; four threads on any machine.
PROGRAM = """
import hashlib, json, os, sys
from pathlib import Path
from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation

def in_kilobytes(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

for folder in sorted(Path(sys.argv[1]).iterdir()):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, folder
        continue
    start = in_kilobytes("VmRSS")
    paths = sorted(str(path) for path in folder.iterdir())
    sha256 = []
    for path in paths:
        with open(path, "rb") as file:
            sha256.append(hashlib.file_digest(file, "sha256").hexdigest())
    images = prepare_images(paths, sha256, Preparation(64), sys.argv[2], num_workers=4, progress=False)
    print(json.dumps({"name": folder.name, "bytes": 1024 * (in_kilobytes("VmHWM") - start),
                      "files": len(paths), "reasons": [reason for _, reason in images.unreadable]}), flush=True)
    os._exit(0)
"""


def sparse(path: Path, start: bytes, num_bytes: int) -> None:
    path.write_bytes(start)
    os.truncate(path, num_bytes)


def progressive(path: Path, side: int) -> None:
    Image.new("RGB", (side, side), (90, 40, 200)).save(path, "JPEG", progressive=True, subsampling=0)


def many(path: Path, content: bytes) -> None:
    for number in range(3):  # what follows the end of a picture makes it another file
        path.with_name(f"{number}{path.suffix}").write_bytes(content + bytes([number]))


DARK = np.zeros((16, 16), np.uint16)
SIDE = 8000  # almost the most pixels that are decoded
COMMENT = b"zTXt", b"Comment\0\0" + zeros(1 << 28)
SMALL_JPEG = saved(Image.new("RGB", (16, 16)), "JPEG", progressive=True)
# What is written to a path, and the reason code; None: it is within the limits and shows a picture.
BOMBS: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "size_of_a_png": (lambda path: path.write_bytes(png(60_000, 60_000, 8, 2, zeros(1 << 28))), "too large"),
    "size_of_a_jpeg": (lambda path: path.write_bytes(with_size(SMALL_JPEG, 65_000, 65_000)), "too large"),
    "size_of_a_tiff": (lambda path: path.write_bytes(black_tiff(40_000, 2_000, 8, t257=40_000)), "too large"),
    "tile_of_a_tiff": (
        lambda path: path.write_bytes(
            tiff(
                data := zeros(1 << 24),
                *longs(tiff_tags(16, 16, 8, len(data), packing=8) | {322: 30_000, 323: 30_000, 324: 8, 325: len(data)}),
            )
        ),
        "too large",
    ),
    "text_of_a_png": (lambda path: path.write_bytes(black_png(16, 16, 8, 0, [COMMENT])), "damaged"),
    "values_of_a_tag": (
        lambda path: sparse(path, tiff(b"", (256, 4, 1, 16), (257, 4, 1, 16), (273, 4, 20_000_000, 8)), 96 << 20),
        "damaged",
    ),
    "length_of_a_file": (lambda path: sparse(path, saved(Image.new("L", (16, 16)), "PNG"), 1 << 30), "too large"),
    "length_within_the_limit": (
        lambda path: sparse(path, b"\x89PNG\r\n\x1a\n" + b"\x05\0\0\0tEXt", 96 << 20),
        "damaged",
    ),
    "grey": (lambda path: path.write_bytes(black_png(SIDE, SIDE, 8, 0)), None),
    "16_bits": (lambda path: path.write_bytes(black_png(SIDE, SIDE, 16, 0)), None),
    "colour": (lambda path: path.write_bytes(black_png(SIDE, SIDE, 8, 2)), None),
    "palette": (
        lambda path: path.write_bytes(
            black_png(SIDE, SIDE, 8, 3, [(b"PLTE", bytes(range(1, 4)) * 256), (b"tRNS", bytes(256))])
        ),
        None,
    ),
    "float": (lambda path: path.write_bytes(black_tiff(6000, 6000, 32, kind=3)), None),
    "float_of_all_pixels": (lambda path: path.write_bytes(black_tiff(SIDE, SIDE, 32, kind=3)), "too large"),
    "progressive": (lambda path: progressive(path, 5500), None),
    "size_of_a_dicom": (lambda path: path.write_bytes(dicom(DARK, Rows=60_000, Columns=60_000)), "too large"),
    "deflated_dicom": (lambda path: path.write_bytes(deflated(bytes(1 << 28))), "too large"),
    "three_deflated_at_once": (lambda path: many(path, deflated(bytes(1 << 28))), "too large"),
    "dicom": (lambda path: path.write_bytes(dicom(np.zeros((6500, 6500), np.uint16))), None),
    "jpeg2000_in_a_dicom": (
        lambda path: path.write_bytes(compressed(np.zeros((6000, 6000), np.uint16), JPEG2000Lossless)),
        None,
    ),
    "three_at_once": (lambda path: many(path, black_png(SIDE, SIDE, 8, 2)), None),
    "three_floats_at_once": (lambda path: many(path, black_tiff(6000, 6000, 32, kind=3)), None),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("bombs")
    for name, (write, _) in BOMBS.items():
        (folder / "files" / name).mkdir(parents=True)
        write(folder / "files" / name / "0.png")
    command = [sys.executable, "-c", PROGRAM, str(folder / "files"), str(folder / "cache")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_below_half_a_gigabyte(measured: dict[str, dict[str, object]], name: str) -> None:
    found, reason = measured[name], BOMBS[name][1]
    assert found["reasons"] == ([] if reason is None else [reason] * int(str(found["files"])))
    assert isinstance(found["bytes"], int)
    assert found["bytes"] < LIMIT
