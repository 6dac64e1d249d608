"""What does ``metrics.json`` hold, and how do several evaluations share it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from cxr.errors import DataError
from cxr.files import write_atomically


def read_metrics(path: Path) -> dict[str, Any]:
    """What ``metrics.json`` holds; empty where there is none.

    Raises:
        DataError: where the file is not what this program writes.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a table of metrics: move it away, and evaluate again")
    return content


def merge_metrics(path: Path, split: str, entry: Mapping[str, Any]) -> None:
    """Put the entry of one split into ``metrics.json`` and leave the others; whole or not at all.

    Raises:
        DataError: where the file that is there is not one of metrics.
        ValueError: where a number is not finite: undefined is None, with a reason.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        text = json.dumps({**read_metrics(path), split: entry}, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(path, text + "\n")
