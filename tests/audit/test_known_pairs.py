from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.audit.known_pairs import same_pictures
from cxr.sources.manifest import make_records


@pytest.fixture
def records(tmp_path: Path) -> pd.DataFrame:
    """Two pictures of which the second stands twice, in another format."""
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (64, 64), np.uint8) for _ in range(2)]
    rows = []
    for name, grey in (("a.png", noise[0]), ("b.png", noise[1]), ("b.tiff", noise[1])):
        cv2.imwrite(str(tmp_path / name), grey)
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        rows.append({"source": "s", "image": name, "path": str(tmp_path / name), "sha256": digest})
    return make_records(rows)


def test_what_was_found_is_known_without_another_look(records: pd.DataFrame, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = same_pictures(records, cache, progress=False)
    assert first.pairs[["row_a", "row_b", "kind"]].to_numpy().tolist() == [[1, 2, "pixels"]]
    for path in [*cache.glob("*.pixels"), *map(Path, records["path"])]:  # nothing is left to look at
        path.unlink()
    again = same_pictures(records, cache, progress=False)
    pd.testing.assert_frame_equal(again.pairs, first.pairs)
    assert (again.num_images, again.num_pictures) == (3, 2)


def test_other_files_are_looked_at_anew(records: pd.DataFrame, tmp_path: Path) -> None:
    same_pictures(records, tmp_path / "cache", progress=False)
    assert same_pictures(records.head(2), tmp_path / "cache", progress=False).pairs.empty


def test_a_damaged_answer_is_not_believed(records: pd.DataFrame, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = same_pictures(records, cache, progress=False)
    (kept,) = cache.glob("same-pictures-*.json")
    kept.write_text('{"pairs": [[0, 1', encoding="utf-8")
    pd.testing.assert_frame_equal(same_pictures(records, cache, progress=False).pairs, first.pairs)
