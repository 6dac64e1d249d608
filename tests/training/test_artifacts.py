"""What of the split leaves: nothing by which somebody without the key could know an image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from cxr.training.artifacts import hashed_split, split_key

RECORDS = pd.DataFrame(
    {
        "image": ["a.png", "b.png", "c.png"],
        "patient": ["p1", "p1", "p2"],
        "sha256": [hashlib.sha256(name.encode()).hexdigest() for name in "abc"],
        "split": ["train", "val", None],
        "label": ["covid", "other", "other"],
    }
)


def test_only_hash_split_and_label_are_left_and_records_without_a_split_are_not() -> None:
    table = hashed_split(RECORDS, b"key")
    assert list(table.columns) == ["key", "split", "label"]
    assert sorted(zip(table["split"], table["label"], strict=True)) == [("train", "covid"), ("val", "other")]
    assert not set(table["key"]) & set(RECORDS["sha256"])
    assert table["key"].is_monotonic_increasing


def test_the_same_key_names_an_image_alike_and_another_key_does_not() -> None:
    turned = RECORDS.iloc[::-1]
    pd.testing.assert_frame_equal(hashed_split(RECORDS, b"key"), hashed_split(turned, b"key"))
    assert not set(hashed_split(RECORDS, b"key")["key"]) & set(hashed_split(RECORDS, b"other")["key"])


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key = split_key(tmp_path)
    assert len(key) == 32
    assert split_key(tmp_path) == key
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
