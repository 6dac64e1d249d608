from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.written_dicom import dicom, jpeg

from cxr.audit.file_facts import encode_facts, read_file_facts


def draw(path: Path, width: int, height: int, mode: str = "L", **options: object) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)  # type: ignore[arg-type]
    return path


def test_the_facts_are_those_of_the_file(tmp_path: Path) -> None:
    grey = draw(tmp_path / "a.png", 80, 40)
    colour = draw(tmp_path / "b.jpg", 30, 60, "RGB", quality=40)
    facts = read_file_facts([str(grey), str(colour)])
    assert facts["width"].tolist() == [80, 30]
    assert facts["height"].tolist() == [40, 60]
    assert facts["aspect"].tolist() == [2.0, 0.5]
    assert facts["format"].tolist() == ["PNG", "JPEG"]
    assert facts["mode"].tolist() == ["L", "RGB"]
    sizes = [path.stat().st_size for path in (grey, colour)]
    assert facts["bytes per pixel"].tolist() == pytest.approx([sizes[0] / 3200, sizes[1] / 1800])


def test_a_dicom_file_tells_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(dicom(np.zeros((30, 60), np.uint16), BitsStored=12))
    (tmp_path / "b").write_bytes(jpeg(np.zeros((30, 60), np.uint8), PhotometricInterpretation="MONOCHROME1"))
    (tmp_path / "c").write_bytes(bytes(128) + b"DICM")
    facts = read_file_facts([str(tmp_path / name) for name in "abc"])
    assert facts["width"].tolist()[:2] == [60, 60]
    assert facts["height"].tolist()[:2] == [30, 30]
    assert facts["format"].tolist()[:2] == ["Explicit VR Little Endian", "JPEG Baseline (Process 1)"]
    assert facts["mode"].tolist()[:2] == ["MONOCHROME2 12", "MONOCHROME1 8"]
    assert facts.iloc[2].isna().all()


def test_only_the_head_is_read(tmp_path: Path) -> None:
    whole = draw(tmp_path / "a.png", 400, 300)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:200])
    words = tmp_path / "words.png"
    words.write_text("no picture")
    facts = read_file_facts([str(cut), str(words), str(tmp_path / "absent.png")])
    assert (facts["width"][0], facts["height"][0]) == (400, 300)
    assert facts.iloc[1:].isna().all(axis=None)


def test_files_that_differ_in_one_fact_differ_as_numbers(tmp_path: Path) -> None:
    draw(tmp_path / "0.png", 64, 64)
    draw(tmp_path / "1.png", 64, 64, "RGB")
    draw(tmp_path / "2.png", 64, 32)
    draw(tmp_path / "3.bmp", 64, 64)
    encoded = encode_facts(read_file_facts([str(path) for path in sorted(tmp_path.iterdir())]))
    assert np.isfinite(encoded).all()
    assert len({tuple(row) for row in encoded}) == 4
