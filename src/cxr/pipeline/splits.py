"""Which records train, which validate, and which are kept for the test?

``holdout`` and ``kfold`` divide patient groups, never a group, unless told to divide patients as they are listed or
single images. `leaking_groups` says what was divided, `leaks_by_intention` whether that was to be expected.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.errors import ConfigurationError, DataError
from cxr.pipeline.dealing import apportion, class_names
from cxr.sources.spreadsheet import restored

logger = logging.getLogger(__name__)

SPLITS: Final = ("train", "val", "test")
KINDS: Final = ("holdout", "kfold", "leave_one_out", "predefined", "random_image", "file")
UNITS: Final = ("group", "patient", "image")
COLUMNS: Final = ("source", "country")


def assign_splits(
    records: pd.DataFrame,
    *,
    kind: str = "holdout",
    unit: str = "group",
    val_fraction: float = 0.25,
    test_fraction: float = 0.2,
    seed: int = 0,
    fold: int = 0,
    num_folds: int = 5,
    column: str = "source",
    value: str | None = None,
    path: str | Path | None = None,
) -> pd.Series[str]:
    """Give every record its split; the order of the records has no influence.

    Args:
        records: a manifest; ``source``, ``image``, ``label`` and ``group`` are read, ``patient``, ``country``,
            ``predefined_split`` and ``sha256`` where the kind asks for them. Unlabelled records are divided like a
            further class.
        kind: ``holdout``: whole units, stratified by class. ``kfold``: the units are dealt into ``num_folds`` folds;
            fold ``fold`` is the test set, and ``val_fraction`` of the rest validates. ``leave_one_out``: the test set
            is everything whose ``column`` is ``value``, of whatever classes; ``val_fraction`` of the rest, by group,
            validates. Records without an entry in the column always train or validate. A group may not reach out of
            the test set: drop `strays` first, as the data module does. ``predefined``: as the collection says; where
            it has no validation set, ``val_fraction`` of its training groups becomes one. ``random_image``: by image,
            stratified; patients end up on both sides; the same as holdout with ``unit=image``. ``file``: as a
            ``split.csv`` says.
        unit: holdout, kfold: what is never divided. ``group``: all that shows one patient or one picture.
            ``patient``: a patient id as its source lists it, without a look at aliases, shared files and copies; an
            image without an id is a patient of its own. ``image``: nothing but the image.
        val_fraction: share of the records in (0, 1).
        test_fraction: share of the records in [0, 1); 0 leaves the test set out (holdout, random_image).
        seed: 0 or more.
        fold: 0 to ``num_folds`` - 1.
        num_folds: at least 2.
        column: leave_one_out: ``source`` or ``country``.
        value: leave_one_out: the entry of the column that is the test set.
        path: file: a CSV with the columns source, image, split and perhaps sha256.

    Returns:
        'train', 'val' or 'test' for each record, with the index of ``records``.

    Raises:
        ConfigurationError: an unknown kind, unit, column or value, or a number out of its range.
        DataError: a class that cannot stand in every split (of leave_one_out: in train and val); a group that reaches
            out of the test set of leave_one_out; a collection or file that does not say where a record belongs.
    """
    for key, given, known in (("kind", kind, KINDS), ("unit", unit, UNITS), ("column", column, COLUMNS)):
        if given not in known:
            nearest = difflib.get_close_matches(str(given), known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(known)}"
            raise ConfigurationError(f"data.split.{key}: {given!r} is not known; {hint}")
    if unit != "group" and kind not in ("holdout", "kfold"):
        raise ConfigurationError(f"data.split.unit: {unit} is for data.split.kind=holdout and kfold, not for {kind}")
    _check_numbers(kind, val_fraction, test_fraction, seed, fold, num_folds)
    if len(records) == 0:
        raise DataError("data: no record is left to be divided; look at the rows that were dropped, and why")
    labels = records["label"].to_numpy(object)
    groups = records["group"].to_numpy(object)
    rng = np.random.default_rng(seed)

    if kind in ("holdout", "random_image"):
        units = _units(records, "image" if kind == "random_image" else unit)
        fractions = [1 - val_fraction - test_fraction, val_fraction, test_fraction]
        places = apportion(units, labels, fractions if test_fraction > 0 else fractions[:2], rng)
        names = np.array(SPLITS, object)[places]
    elif kind == "kfold":
        units = _units(records, unit)
        folds = apportion(units, labels, [1 / num_folds] * num_folds, rng)
        names = np.full(len(records), "test", object)
        rest = folds != fold
        # Its own generator: the validation set of a fold does not hang on how many draws the folds took.
        rng = np.random.default_rng([seed, fold])
        names[rest] = _train_and_val(units[rest], labels[rest], val_fraction, rng)
    elif kind == "leave_one_out":
        names = _leave_one_out(records, groups, labels, column, value, val_fraction, rng)
    elif kind == "predefined":
        names = _predefined(records, groups, labels, val_fraction, rng)
    else:
        if path is None:
            raise ConfigurationError("data.split.path: is not set; data.split.kind=file needs the split.csv of a run")
        names = match_split(records, _read_split(Path(path)), str(path))["split"].to_numpy(object)

    split = pd.Series(names, index=records.index, name="split", dtype=object)
    require_every_class(labels, split, also_in_test=kind != "leave_one_out")
    return split


def describe_split(kind: str, unit: str = "group") -> str:
    """What was divided, in words: 'holdout', 'kfold by image'."""
    return kind if unit == "group" else f"{kind} by {unit}"


def leaks_by_intention(kind: str, unit: str = "group") -> bool:
    """Whether a user who asks for this split asks for patients on two sides of it."""
    return kind == "random_image" or unit != "group"


def strays(records: pd.DataFrame, column: str, value: str) -> NDArray[np.bool_]:
    """(N,) whether a record stands outside of what is left out although its patient group stands in it.

    Left in training it would show a patient of the test set; put into the test set it would be no image of ``value``,
    and be tested twice, here and with the value that it has. So it is used for neither.

    Args:
        records: a manifest of N records; ``group`` and the column are read.
        column: one of ``COLUMNS``.
        value: an entry of the column.
    """
    inside = (records[column] == value).to_numpy()
    return np.asarray(~inside & records["group"].isin(records.loc[inside, "group"]).to_numpy())


def leaking_groups(records: pd.DataFrame, split: pd.Series[str]) -> list[str]:
    """The groups that stand on two sides of the split, sorted."""
    sides = split.groupby(records["group"]).nunique()
    return sorted(str(group) for group in sides.index[sides > 1])


def require_every_class(labels: NDArray[np.object_], split: pd.Series[str], *, also_in_test: bool = True) -> None:
    """Refuse a split in which a class is absent from one side: its metrics would say nothing.

    Args:
        labels: (N,) class of each record; None: unlabelled.
        split: (N,).
        also_in_test: False where the test set is what it is, as a whole source that knows one class.

    Raises:
        DataError: names the class and the side; or says that nothing is left to train on.
    """
    sides = [name for name in SPLITS if (split == name).any()]
    if "train" not in sides:
        raise DataError("data.split: no record is left to train on; change data.split.kind or its fractions")
    for name in class_names(labels):
        for side in sides if also_in_test else [side for side in sides if side != "test"]:
            if not ((labels == name) & (split == side).to_numpy()).any():
                raise DataError(
                    f"data.split: class {name!r} has {int((labels == name).sum())} images and none of them is in "
                    f"{side}; choose data.split.kind=holdout, or join the class to another in data.classes"
                )


def match_split(records: pd.DataFrame, given: pd.DataFrame, origin: str, *, whole: bool = False) -> pd.DataFrame:
    """What an earlier run said of each record, found by source and image, else by the file's bytes.

    Args:
        records: a manifest.
        given: columns source, image, split, and perhaps sha256.
        origin: where ``given`` comes from, for the messages.
        whole: also refuse records that stand in ``given`` and are missing now.

    Returns:
        The row of ``given`` for each record, with the index of ``records``.

    Raises:
        DataError: a record that ``given`` does not know, files with other bytes than then, unknown names of splits.
    """
    for column in ("source", "image", "split"):
        if column not in given:
            raise DataError(f"{origin}: column {column!r} is missing; a split file has source, image, split and sha256")
    unknown = given.loc[~given["split"].isin(SPLITS), "split"]
    if len(unknown) > 0:
        raise DataError(f"{origin}: {len(unknown)} rows have a split like {unknown.iloc[0]!r}; say train, val or test")

    keys = list(zip(given["source"], given["image"], strict=True))
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) < len(set(zip(keys, given["split"], strict=True))):
        raise DataError(f"{origin}: an image stands in two splits; give each image one row")
    bytes_of: dict[tuple[str, str], str] = {}
    row_of_bytes: dict[str, int] = {}
    if "sha256" in given:
        known = given["sha256"].notna().to_numpy()
        bytes_of = {key: sha for key, sha, ok in zip(keys, given["sha256"], known, strict=True) if ok}
        row_of_bytes = {bytes_of[key]: row_of[key] for key in bytes_of}

    rows: list[int] = []
    missing: list[str] = []
    changed: list[str] = []
    used: set[tuple[str, str]] = set()
    for source, image, sha in zip(records["source"], records["image"], records["sha256"], strict=True):
        key = (source, image)
        if key in row_of:
            used.add(key)
            rows.append(row_of[key])
            if sha is not None and bytes_of.get(key, sha) != sha:
                changed.append(f"{source}/{image}")
        elif sha in row_of_bytes:
            rows.append(row_of_bytes[sha])
        else:
            missing.append(f"{source}/{image}")
    if changed:
        raise DataError(
            f"{origin}: {len(changed)} of {len(records)} files are not those that were divided ({changed[0]}); bring "
            "the files back, or make a new split with data.split.kind=holdout"
        )
    if missing:
        raise DataError(
            f"{origin}: {len(missing)} of {len(records)} records are not in it ({missing[0]}); give the split of the "
            "same data, or make a new one with data.split.kind=holdout"
        )
    absent = len(row_of) - len(used)
    if absent > 0 and whole:
        first = "/".join(next(key for key in row_of if key not in used))
        raise DataError(f"{origin}: {absent} of its {len(row_of)} images are gone ({first}); bring the files back")
    if absent > 0:
        logger.warning("%s lists %d images that are not among the records", origin, absent)
    return given.iloc[rows].set_axis(records.index)


def _read_split(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8", keep_default_na=False, na_values={"sha256": [""]})
        return restored(table)
    except (OSError, ValueError) as error:
        raise DataError(f"data.split.path: {path} cannot be read ({error}); give the split.csv of a run") from error


def _predefined(
    records: pd.DataFrame,
    groups: NDArray[np.object_],
    labels: NDArray[np.object_],
    val_fraction: float,
    rng: np.random.Generator,
) -> NDArray[np.object_]:
    names = records["predefined_split"].to_numpy(object).copy()
    missing = ~np.isin(names.astype(str), SPLITS)
    if missing.any():
        raise DataError(
            f"data.split.kind=predefined: {int(missing.sum())} of {len(records)} records have no split of their own "
            f"({_image_names(records)[missing][0]}); use data.split.kind=holdout"
        )
    train = names == "train"
    if not (names == "val").any() and train.any():
        names[train] = _train_and_val(groups[train], labels[train], val_fraction, rng)
    return names


def _leave_one_out(
    records: pd.DataFrame,
    groups: NDArray[np.object_],
    labels: NDArray[np.object_],
    column: str,
    value: str | None,
    val_fraction: float,
    rng: np.random.Generator,
) -> NDArray[np.object_]:
    if value is None:
        raise ConfigurationError(f"data.split.value: is not set; data.split.kind=leave_one_out needs a {column}")
    inside = (records[column] == value).to_numpy()
    if not inside.any():
        known = sorted({str(each) for each in records[column] if each is not None})
        nearest = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        there = f"there are: {', '.join(known)}" if known else f"no record has a {column}"
        raise ConfigurationError(f"data.split.value: no record has the {column} {value!r}; {hint}{there}")
    if (reaching := strays(records, column, value)).any():
        first = _image_names(records)[reaching][0]
        raise DataError(
            f"data.split.value={value}: {int(reaching.sum())} records of another {column} are of patients who are to "
            f"be tested ({first}); leave these records out"
        )
    if inside.all():
        raise DataError(f"data.split.value={value}: all records are of this {column}; nothing is left to train on")
    for name in class_names(labels):
        if not (labels[~inside] == name).any():
            raise DataError(
                f"data.split.value={value}: without this {column} no image of class {name!r} is left to train on; "
                f"leave out another {column}, or add one that holds the class"
            )
    names = np.full(len(records), "test", object)
    names[~inside] = _train_and_val(groups[~inside], labels[~inside], val_fraction, rng)
    return names


def _train_and_val(
    groups: NDArray[np.object_], labels: NDArray[np.object_], val_fraction: float, rng: np.random.Generator
) -> NDArray[np.object_]:
    return np.array(SPLITS, object)[apportion(groups, labels, [1 - val_fraction, val_fraction], rng)]


def _units(records: pd.DataFrame, unit: str) -> NDArray[np.object_]:
    """(N,) the name of what must stay whole."""
    if unit == "group":
        return records["group"].to_numpy(object)
    images = _image_names(records)
    if unit == "image":
        return images
    known = records["patient"].notna().to_numpy()
    patients = (records["source"].astype(str) + "/" + records["patient"].astype(str)).to_numpy(object)
    return np.where(known, patients, images)


def _image_names(records: pd.DataFrame) -> NDArray[np.object_]:
    return (records["source"].astype(str) + "/" + records["image"].astype(str)).to_numpy(object)


def _check_numbers(kind: str, val_fraction: float, test_fraction: float, seed: int, fold: int, num_folds: int) -> None:
    if not 0 < val_fraction < 1:
        raise ConfigurationError(f"data.split.val_fraction: {val_fraction} is not between 0 and 1")
    if not 0 <= test_fraction < 1:
        raise ConfigurationError(f"data.split.test_fraction: {test_fraction} is not from 0 to below 1")
    if kind in ("holdout", "random_image") and val_fraction + test_fraction >= 1:
        raise ConfigurationError(
            f"data.split: val_fraction={val_fraction} and test_fraction={test_fraction} leave nothing to train on; "
            "their sum must be below 1"
        )
    if seed < 0:
        raise ConfigurationError(f"data.split.seed: {seed} is below 0")
    if num_folds < 2:
        raise ConfigurationError(f"data.split.num_folds: {num_folds} is below 2")
    if kind == "kfold" and not 0 <= fold < num_folds:
        raise ConfigurationError(f"data.split.fold: {fold} is not one of 0 to {num_folds - 1}")
