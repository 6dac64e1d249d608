"""What does a checkpoint say of its network and its data?  Known names and plain values; nothing it names is made.

The checkpoint may come from anybody. Whatever is not on these lists is refused: there is no class, function, file or
address by which it could have something of its choice made, opened or fetched.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from cxr.errors import DataError
from cxr.images.cache import usable_cores
from cxr.pipeline.datamodule import CXRDataModule

SPLIT_COLUMNS = ("source", "image", "sha256", "label", "group", "split")
_BACKBONE = re.compile(r"[a-zA-Z0-9_]{1,100}(\.[a-zA-Z0-9_-]{1,100})?")
_MAX_CLASSES, _MAX_NAME, _MAX_SIDE, _MAX_COUNT = 1000, 200, 8192, 10**9
_MAX_DEPTH, _MAX_VALUES = 12, 100_000


def network_arguments(parameters: object) -> dict[str, Any]:
    """Keyword arguments of `CXRModule`, without a file or an address to take weights from.

    Args:
        parameters: what the checkpoint holds as hyper-parameters.

    Raises:
        DataError: a name that `CXRModule` does not have, or a value of another kind.
    """
    table = _table(parameters, "the hyper-parameters")
    readers: dict[str, Callable[[object, str], Any]] = {
        "backbone": _backbone,
        "class_names": _class_names,
        "positive": _text,
        "image_size": _side,
        "aspect": _text,
        "head": _text,
        "drop_rate": _number,
        "drop_path_rate": _number,
        "channels_last": _flag,
        **dict.fromkeys(("optimizer", "schedule", "loss"), _settings),
        **dict.fromkeys(("class_weights", "class_priors"), _numbers),
    }
    # Where its own training began is of no meaning here, and no weights are fetched or opened because of it.
    unknown = sorted(table.keys() - readers.keys() - {"pretrained", "weights"})
    missing = [name for name in ("backbone", "class_names", "positive") if name not in table]
    if unknown or missing:
        what = f"unknown: {_shown(unknown[0])}" if unknown else f"missing: {missing[0]}"
        raise DataError(f"its hyper-parameters are not those of a network of cxr ({what})")
    read = {name: readers[name](table[name], name) for name in readers if name in table}
    return {**read, "pretrained": False, "weights": None}


def data_arguments(parameters: object) -> dict[str, Any]:
    """Keyword arguments of `CXRDataModule`, without an address to fetch a collection from.

    Raises:
        DataError: a name that `CXRDataModule` does not have, or a value that is not plain.
    """
    table = _table(_plain(parameters, "the data settings"), "the data settings")
    known = inspect.signature(CXRDataModule.__init__).parameters.keys() - {"self"}
    unknown = sorted(table.keys() - known)
    if unknown:
        raise DataError(f"its data settings are not those of cxr (unknown: {_shown(unknown[0])})")
    sources = _table(table.get("sources"), "sources")
    table["sources"] = {
        name: {key: value for key, value in _table(options, f"sources.{name}").items() if key != "address"}
        for name, options in sources.items()
    }
    # How many processes read the images is no more a matter of the network than where they run.
    table["num_workers"] = min(count(table.get("num_workers", 0), "num_workers"), usable_cores())
    return table


def training_split(state: object) -> pd.DataFrame:
    """The records that stood in a split of the training: columns of ``SPLIT_COLUMNS``, texts or None.

    Args:
        state: what the checkpoint holds as the state of the data.

    Raises:
        DataError: other columns, columns of unequal length, or a cell that is no text.
    """
    columns = _table(_table(state, "the state of the data").get("split"), "the split")
    if not {"source", "image", "sha256", "split"} <= columns.keys() <= set(SPLIT_COLUMNS):
        raise DataError(f"the split: its columns are not {', '.join(SPLIT_COLUMNS)}")
    if any(not isinstance(cells, list) for cells in columns.values()) or len(set(map(len, columns.values()))) != 1:
        raise DataError("the split: its columns are not lists of one length")
    for name, cells in columns.items():
        if not all(cell is None or isinstance(cell, str) for cell in cells):
            raise DataError(f"the split: {name} holds more than text")
    return pd.DataFrame(columns, dtype=object)


def count(value: object, name: str) -> int:
    """
    Raises:
        DataError: not a whole number of 0 to a thousand million.
    """
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise DataError(f"{name}: {_shown(value)} is no count")
    return value


def _table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise DataError(f"{name}: no table of names")
    return dict(value)


def _plain(value: object, name: str) -> Any:
    """The same in lists and dicts of their own; shared and circular parts end at the limits."""
    left = _MAX_VALUES

    def copied(value: object, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > _MAX_DEPTH or left < 0:
            raise DataError(f"{name}: nested deeper, or larger, than settings are")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return [copied(each, depth + 1) for each in value]
        return {key: copied(each, depth + 1) for key, each in _table(value, name).items()}

    return copied(value, 0)


def _settings(value: object, name: str) -> dict[str, Any] | None:
    return None if value is None else _table(_plain(value, name), name)


def _backbone(value: object, name: str) -> str:
    if not isinstance(value, str) or _BACKBONE.fullmatch(value) is None:
        raise DataError(f"{name}: {_shown(value)} is no name of a network")
    return value


def _class_names(value: object, name: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= _MAX_CLASSES:
        raise DataError(f"{name}: no list of 2 to {_MAX_CLASSES} names")
    return [_text(each, name) for each in value]


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME or not value.isprintable():
        raise DataError(f"{name}: {_shown(value)} is no printable text of 1 to {_MAX_NAME} characters")
    return value


def _side(value: object, name: str) -> int:
    if not 1 <= count(value, name) <= _MAX_SIDE:
        raise DataError(f"{name}: {_shown(value)} is not from 1 to {_MAX_SIDE}")
    return count(value, name)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{name}: {_shown(value)} is no number")
    return float(value)


def _numbers(value: object, name: str) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) > _MAX_CLASSES:
        raise DataError(f"{name}: no list of numbers")
    return [_number(each, name) for each in value]


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"{name}: {_shown(value)} is neither true nor false")
    return value


def _shown(value: object) -> str:
    """A value of unknown origin, short and without control characters."""
    if not isinstance(value, (str, int, float, bool, type(None))):
        return type(value).__name__
    return ascii(value if not isinstance(value, str) else value[:60])[:60]
