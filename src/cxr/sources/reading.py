"""How do the sources that a user names become one manifest?"""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from cxr.errors import ConfigurationError, DataError
from cxr.sources import class_folders, covid_chestxray, dicom, phantom, table
from cxr.sources.cells import VIEWS
from cxr.sources.download import ensure_collection
from cxr.sources.fingerprints import sha256_of
from cxr.sources.labels import assign_labels
from cxr.sources.manifest import UNREADABLE, Collection, Manifest, combine
from cxr.sources.ontology import fold

_READERS: Final[Mapping[str, Callable[..., Collection]]] = {
    "covid_chestxray": covid_chestxray.read,
    "class_folders": class_folders.read,
    "table": table.read,
    "dicom": dicom.read,
    "phantom": phantom.read,
}
_DEFAULT_ROOTS: Final = {"covid_chestxray": "covid-chestxray-dataset"}
# Parameters of the readers that are no options of a source: they are the same for all of them.
_NOT_OPTIONS: Final = ("name", "cache_dir", "progress")


def read_sources(
    sources: Mapping[str, Mapping[str, Any]],
    *,
    data_dir: str | Path,
    cache_dir: str | Path,
    classes: Mapping[str, Sequence[str]] | None = None,
    views: Sequence[str] | None = None,
    download: bool = True,
    keep_unlabelled: bool = False,
    progress: bool = True,
) -> Manifest:
    """Reads all sources, gives every record its class, group and fingerprint, and accounts for every row.

    Args:
        sources: name -> ``kind`` (covid_chestxray, class_folders, table, dicom, phantom), ``root`` (relative to
            ``data_dir``) and the options of that reader. For covid_chestxray also ``address``, whence it is fetched.
        data_dir: where collections are looked for.
        cache_dir: where drawings and fingerprints are kept.
        classes: class name -> nodes of the ontology, as ``labels.assign_labels``.
        views: views to keep; records of which no view is known stay. None keeps all. A ``views`` of a source's own goes
            before it.
        download: whether an absent collection may be fetched.
        keep_unlabelled: keeps records without a class, as for scoring; their label is None.
        progress: shows bars on a terminal.

    Raises:
        ConfigurationError: a source of unknown kind, an unknown option, or an option out of its range.
        DataError: a source is absent or cannot be read, or no record is left.
    """
    if not sources:
        raise ConfigurationError("sources={} names no source; give one, or try experiment=demo")
    if views is not None and (isinstance(views, str) or not views):
        raise ConfigurationError(f"views={views!r} is not a list of views; write [PA, AP], or null for all")
    for name, options in sources.items():
        _check_options(name, options)
    data_dir, cache_dir = Path(data_dir).expanduser(), Path(cache_dir).expanduser()
    collections = [
        _read_source(
            name, options, data_dir=data_dir, cache_dir=cache_dir, views=views, download=download, progress=progress
        )
        for name, options in sources.items()
    ]

    findings = [finding for collection in collections for finding in collection.records["finding"]]
    assignment = assign_labels(findings, classes)
    labels, reasons = iter(assignment.labels), iter(assignment.reasons)
    labelled = []
    for collection in collections:
        num_records = len(collection.records)
        own_labels = [next(labels) for _ in range(num_records)]
        own_reasons = [next(reasons) for _ in range(num_records)]
        labelled.append(_with_labels(collection, own_labels, own_reasons, keep_unlabelled))
    hashed = _with_fingerprints(labelled, cache_dir / "fingerprints.sqlite", progress)
    manifest = combine(hashed, assignment.class_names)
    if manifest.records.empty:
        raise DataError(f"no image is left of {', '.join(map(repr, sources))}: {_account(manifest)}")
    return manifest


def _account(manifest: Manifest) -> str:
    counts = manifest.dropped["reason"].value_counts()
    words = [f"{manifest.rows} rows read", *(f"{count} dropped: {reason}" for reason, count in counts.items())]
    return "; ".join([*words, *manifest.notes[:2]])


def _options_of(kind: str) -> list[str]:
    """The options of a kind of source, as its reader's signature says."""
    own = [option for option in inspect.signature(_READERS[kind]).parameters if option not in _NOT_OPTIONS]
    return ["kind", *own, *(["address"] if kind == "covid_chestxray" else [])]


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"source {name!r}: {options!r} is not a mapping of options; give it a kind")
    kind = options.get("kind")
    if kind not in _READERS:
        nearest = difflib.get_close_matches(str(kind), _READERS, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(_READERS)}"
        raise ConfigurationError(f"source {name!r}: kind={kind!r} is not known; {hint}")
    known = _options_of(str(kind))
    for option in options:
        if option not in known:
            nearest = difflib.get_close_matches(str(option), known, n=1, cutoff=0.6)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(known)}"
            raise ConfigurationError(f"source {name!r}: {option} is not an option of kind={kind}; {hint}")
    if "root" in known and not isinstance(_root_of(options), str | Path):
        raise ConfigurationError(f"source {name!r}: root={_root_of(options)!r} is not a path; say where it lies")


def _root_of(options: Mapping[str, Any]) -> Any:
    root = options.get("root")
    return root if root is not None else _DEFAULT_ROOTS.get(str(options["kind"]))


def _read_source(
    name: str,
    options: Mapping[str, Any],
    *,
    data_dir: Path,
    cache_dir: Path,
    views: Sequence[str] | None,
    download: bool,
    progress: bool,
) -> Collection:
    given = dict(options)
    kind = str(given.pop("kind"))
    takes = inspect.signature(_READERS[kind]).parameters
    if "root" in takes:
        given["root"] = data_dir / Path(_root_of(options)).expanduser()
    shared = {"cache_dir": cache_dir, "progress": progress}
    given |= {key: value for key, value in shared.items() if key in takes}
    if kind == "covid_chestxray":
        address = given.pop("address", None)
        ensure_collection(
            given["root"],
            address if address is not None else covid_chestxray.ADDRESS,
            download=download,
            required=covid_chestxray.METADATA,
            size_hint=covid_chestxray.SIZE_HINT,
            progress=progress,
        )
    if "views" in takes:
        # The reader knows more of its views than their names; a source may also want others than the rest.
        given["views"] = given["views"] if given.get("views") is not None else views
        return _READERS[kind](name, **given)
    collection = _READERS[kind](name, **given)
    return collection if views is None else _with_views(collection, views)


def _with_views(collection: Collection, views: Sequence[str]) -> Collection:
    present = {fold(view): view for view in collection.records["view"] if view is not None}
    known = present | VIEWS
    for view in views:
        if fold(view) not in known:
            nearest = known[difflib.get_close_matches(fold(view), known, n=1, cutoff=0.0)[0]]
            raise ConfigurationError(f"views: {view!r} is no view of a chest radiograph; nearest: {nearest!r}")
    wanted = {known[fold(view)] for view in views}
    found = list(collection.records["view"])
    return collection.drop([None if view is None or view in wanted else "view" for view in found], found)


def _with_labels(
    collection: Collection, labels: Sequence[str | None], reasons: Sequence[str | None], keep_unlabelled: bool
) -> Collection:
    records = collection.records.assign(label=pd.Series(labels, dtype=object))
    collection = replace(collection, records=records)
    if not keep_unlabelled:
        return collection.drop(reasons, list(records["finding"]))
    counts = Counter(reason for reason in reasons if reason is not None)
    notes = tuple(f"{count} images have no label: {reason}" for reason, count in counts.items())
    return replace(collection, notes=collection.notes + notes)


def _with_fingerprints(collections: Sequence[Collection], memo_path: Path, progress: bool) -> list[Collection]:
    paths = [path for collection in collections for path in collection.records["path"]]
    digests = iter(sha256_of(paths, memo_path, progress=progress))
    hashed = []
    for collection in collections:
        own = [next(digests) for _ in range(len(collection.records))]
        records = collection.records.assign(sha256=pd.Series(own, dtype=object))
        reasons = [UNREADABLE if digest is None else None for digest in own]
        hashed.append(replace(collection, records=records).drop(reasons, ["cannot be opened"] * len(own)))
    return hashed
