"""Who looked at which data, when, and through which checkpoint?

A test set that is looked at until the number pleases is no test set: each look leaves a line.
"""

from __future__ import annotations

import csv
import io
import os
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from cxr.sources.spreadsheet import defuse

COLUMNS = ("time", "split", "checkpoint", "checkpoint_sha256", "num_images")


def record_look(path: Path, *, split: str, checkpoint: str, checkpoint_sha256: str, num_images: int) -> int:
    """Append one line to the run's ``looks.csv``; several processes may do so at once.

    Args:
        path: the file.
        split: 'train', 'val', 'test' or the name of an external collection.
        checkpoint: name of the file that was scored.
        checkpoint_sha256: hex of its bytes.
        num_images: images scored.

    Returns:
        How many looks at this split the file now holds, this one included.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not before:
            writer.writerow(COLUMNS)
        elif not before.endswith("\n"):  # a process died within its line
            text.write("\n")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        writer.writerow((now, defuse(split), defuse(checkpoint), checkpoint_sha256, num_images))
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        looks = csv.DictReader(io.StringIO(before + text.getvalue()))
        return sum(row["split"] == defuse(split) for row in looks)
