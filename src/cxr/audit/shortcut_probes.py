"""How much of what can be learned of the label can be learned without the disease?

Simple models are asked for the label and shown what should not hold it: facts of the file, the source, four grey
levels, a border, the picture without its lungs. What the same kind of model makes of the whole thumbnail is the
reference; see `cxr.audit.verdict` for what is flagged. That a probe is not flagged is no proof: a network sees more
than a linear model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from cxr.audit.file_facts import encode_facts, read_file_facts
from cxr.audit.picture_features import SIZE, blacked_out, border_cells, cells, grey_levels
from cxr.audit.probing import Task
from cxr.audit.verdict import AUROC_LIMIT, SHARE_LIMIT
from cxr.images.cache import prepare_images
from cxr.images.lung_masks import LungMasks, find_lung_masks, prepare_lung_masks
from cxr.images.lung_region import lung_region
from cxr.images.prepare import Aspect, Preparation
from cxr.statistics.areas import area_interval, share_above_chance

MIN_PATIENTS = 10  # with a class and without it; of fewer, two would stand in each fold
REFERENCE = "thumbnail"
READ = ("sha256", "source", "group", "label", "path", "image")
"""The columns of the records that the answer hangs on; ``image`` finds the masks of the lungs."""


@dataclass(frozen=True)
class Probe:
    """What one kind of sight gives.

    Args:
        name: of what the model sees.
        sees: the same in words.
        auroc: for the positive class against the rest: ``value``, ``low``, ``high``, ``method``; None where undefined,
            with a ``reason``.
        share: of the reference's signal, likewise; None for the reference itself.
        source_auroc: for the source, likewise; of several sources the mean of each against the rest. None for the
            source itself.
        flagged: whether it is a shortcut by the rules of `cxr.audit.verdict`; None where that is not known.
        verdict: the same in words.
    """

    name: str
    sees: str
    auroc: dict[str, Any]
    share: dict[str, Any] | None
    source_auroc: dict[str, Any] | None
    flagged: bool | None
    verdict: str


@dataclass(frozen=True)
class ShortcutProbes:
    """What all probes found.

    Args:
        positive: the class that they were asked for.
        images, patients, positives: that they were asked about; positives are images.
        left_out: reason -> images.
        masked: images whose lungs somebody drew: their mask is black as well, beside the region.
        masks_left_out: reason -> files of masks.
        sources: source -> images, of the sources that were told apart.
        probes: the reference last.
        num_resamples: of the patients, behind every interval.
    """

    positive: str
    images: int
    patients: int
    positives: int
    left_out: dict[str, int]
    masked: int
    masks_left_out: dict[str, int]
    sources: dict[str, int]
    probes: tuple[Probe, ...]
    num_resamples: int

    @property
    def flagged(self) -> list[Probe]:
        """The probes that found a shortcut."""
        return [probe for probe in self.probes if probe.flagged]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        limits = {"share": SHARE_LIMIT, "auroc": AUROC_LIMIT, "patients": MIN_PATIENTS}
        return asdict(self) | {
            "probes": [asdict(probe) for probe in self.probes],
            "reference": REFERENCE,
            "limits": limits,
        }


@dataclass(frozen=True)
class _Sight:
    name: str
    sees: str
    features: NDArray[np.float64]
    degree: int = 1
    of_picture: bool = True


def probe_shortcuts(
    records: pd.DataFrame,
    class_names: Sequence[str],
    positive: str,
    cache_dir: str | Path,
    *,
    aspect: Aspect = "crop",
    num_resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> ShortcutProbes:
    """Ask simple models for the label, by cross-validation over patients.

    The same records give the same numbers in whatever order they come, and with any number of threads.

    Args:
        records: rows of a manifest: columns ``READ``.
        class_names: images of other classes, and those without a class, are left out.
        positive: the class that is asked for, against the rest.
        cache_dir: where the prepared images, ``SIZE`` pixels wide, are kept.
        aspect: how pictures become square; as in training.
        num_resamples: of the patients, behind every interval.
        seed: of the divisions into folds and of the resamples.
        progress: show bars on a terminal.

    Raises:
        DataError: a file cannot be opened, or the cache cannot be written.
    """
    # In an order of their own: sums of floats, and with them the fitted models, hang on the order of the rows.
    labelled = records[records["label"].isin(list(class_names))].sort_values(list(READ), ignore_index=True)
    facts = read_file_facts(labelled["path"].tolist())
    images = prepare_images(
        labelled["path"].tolist(), labelled["sha256"].tolist(), Preparation(SIZE, aspect), cache_dir, progress=progress
    )
    readable = (images.rows >= 0) & facts["width"].notna().to_numpy()
    left_out = {"without a class": len(records) - len(labelled), "unreadable": int((~readable).sum())}
    used, facts = labelled[readable], facts[readable]
    pictures = np.take(np.asarray(images.pixels), images.rows[readable], axis=0)
    labels = (used["label"] == positive).to_numpy().astype(np.int64)
    groups = used["group"].astype(str).to_numpy()
    sources = used["source"].astype(str).to_numpy()

    masks, masks_left_out = _masks(used, aspect)
    sights = _sights(facts, sources, pictures, aspect, masks)
    label_reason = _too_few({positive: groups[labels == 1], f"other than {positive}": groups[labels == 0]})
    told, source_reason = _sources_told(sources, groups)
    in_told = np.isin(sources, told)
    label_task = None if label_reason else Task(labels, groups, num_resamples=num_resamples, seed=seed)
    source_task = None
    if not source_reason:
        numbers = np.unique(sources[in_told], return_inverse=True)[1].astype(np.int64)
        source_task = Task(numbers, groups[in_told], num_resamples=num_resamples, seed=seed)

    areas, of_source = {}, {}
    console = Console(stderr=True)
    shown = track(
        sights, "Probing for shortcuts", console=console, transient=True, disable=not (progress and console.is_terminal)
    )
    for sight in shown:
        if label_task is not None:
            areas[sight.name] = label_task.areas(sight.features, degree=sight.degree)
        if source_task is not None and sight.name != "source":
            of_source[sight.name] = source_task.areas(sight.features[in_told], degree=sight.degree)
    return ShortcutProbes(
        positive=positive,
        images=len(used),
        patients=len(set(groups)),
        positives=int(labels.sum()),
        left_out={reason: number for reason, number in left_out.items() if number},
        masked=len(masks.rows),
        masks_left_out=masks_left_out,
        sources={source: int((sources == source).sum()) for source in told},
        probes=tuple(_probe(sight, areas, label_task, label_reason, of_source, source_task, source_reason)
                     for sight in sights),
        num_resamples=num_resamples,
    )  # fmt: skip


def _masks(used: pd.DataFrame, aspect: Aspect) -> tuple[LungMasks, dict[str, int]]:
    """The lungs that somebody drew, by position among the images, and why other masks are of no use."""
    files = find_lung_masks(used)
    rows, left_out = np.array(list(files.path_of), np.int64), Counter(files.left_out)
    if used["source"].nunique() > 1 and len(rows):
        # Collections differ in how many of their images have one, so that the holes would tell the source.
        left_out["would tell the source, where there are several"] += len(rows)
        rows = rows[:0]
    masks = prepare_lung_masks(files, rows, Preparation(SIZE, aspect))
    return masks, dict(left_out + Counter(masks.left_out))


def _sights(
    facts: pd.DataFrame,
    sources: NDArray[np.object_],
    pictures: NDArray[np.uint8],
    aspect: Aspect,
    masks: LungMasks,
) -> list[_Sight]:
    thumbnails = cells(pictures)
    # The region is black everywhere, so that next to nothing shows of the outline of a mask, or of having one: nearly
    # all of a mask lies within it.
    hidden = np.repeat(lung_region(SIZE, aspect)[None], len(pictures), axis=0)
    hidden[masks.rows] |= masks.inside
    without_lungs = cells(blacked_out(pictures, hidden))
    blackened = "the region of the lungs black"
    if len(masks.rows):
        blackened += f", and the masks of {len(masks.rows)} images"
    several = pd.get_dummies(pd.Series(sources)).to_numpy(np.float64)
    num = len(pictures)
    found = [
        _Sight("file facts", "size, format, mode and bytes per pixel of the file", encode_facts(facts), 2, False),
        _Sight("source", "the name of the source", several, 1, False),
        _Sight("grey levels", "mean, spread, 5th and 95th percentile of the grey levels", grey_levels(pictures), 2),
        _Sight("border", "a border of a sixteenth of the side", border_cells(thumbnails)),
        _Sight("without lungs", f"the thumbnail with {blackened}", without_lungs.reshape(num, -1)),
        _Sight(REFERENCE, "the whole picture in 16 x 16 cells", thumbnails.reshape(num, -1)),
    ]
    return found if several.shape[1] > 1 else [sight for sight in found if sight.name != "source"]


def _too_few(groups_of: Mapping[str, NDArray[np.object_]]) -> str:
    """Why there are not enough patients; empty where there are."""
    short = [f"{len(set(groups))} patients {name}" for name, groups in groups_of.items()
             if len(set(groups)) < MIN_PATIENTS]  # fmt: skip
    return f"too few: {', '.join(short)} ({MIN_PATIENTS} are needed)" if short else ""


def _sources_told(sources: NDArray[np.object_], groups: NDArray[np.object_]) -> tuple[list[str], str]:
    """The sources that have enough patients, and why they cannot be told apart where they cannot."""
    names = np.unique(sources).tolist()
    if len(names) < 2:
        return names, "there is one source" if names else "there is no image"
    told = [name for name in names if len(set(groups[sources == name])) >= MIN_PATIENTS]
    return told, "" if len(told) > 1 else f"fewer than two sources have {MIN_PATIENTS} patients"


def _probe(
    sight: _Sight,
    areas: Mapping[str, NDArray[np.float64]],
    label_task: Task | None,
    label_reason: str,
    of_source: Mapping[str, NDArray[np.float64]],
    source_task: Task | None,
    source_reason: str,
) -> Probe:
    source_auroc = None
    if sight.name != "source":
        source_auroc = _estimate(of_source.get(sight.name), source_task, source_reason)
    auroc = _estimate(areas.get(sight.name), label_task, label_reason)
    share: dict[str, Any] | None = None
    if sight.name == REFERENCE:
        flagged, verdict = None, "the reference" if label_task is not None else label_reason
        if label_task is not None and auroc["low"] <= 0.5:
            verdict = "the reference: not shown to be above chance"
    elif label_task is None:
        share = dict.fromkeys(("value", "low", "high", "method")) | {"reason": label_reason}
        flagged, verdict = None, label_reason
    else:
        reference = _estimate(areas[REFERENCE], label_task, "")
        share = share_above_chance(
            areas[sight.name],
            areas[REFERENCE],
            reference["low"],
            min(map(min, label_task.num_patients)),
            of=f"the {REFERENCE}",
        )
        flagged, verdict = _judge(sight, auroc, share)
    return Probe(sight.name, sight.sees, auroc, share, source_auroc, flagged, verdict)


def _estimate(areas: NDArray[np.float64] | None, task: Task | None, reason: str) -> dict[str, Any]:
    if areas is None or task is None:
        return dict.fromkeys(("value", "low", "high", "method")) | {"reason": reason}
    fewest = (min(side) for side in zip(*task.num_patients, strict=True))
    return {"value": float(areas[0])} | asdict(area_interval(float(areas[0]), areas[1:], *fewest))


def _judge(sight: _Sight, auroc: Mapping[str, Any], share: Mapping[str, Any]) -> tuple[bool | None, str]:
    if not sight.of_picture and auroc["low"] > AUROC_LIMIT:
        return True, (
            f"is no picture, and yet predicts the label: AUROC {auroc['value']:.2f}, at least {auroc['low']:.2f}"
        )
    if share["low"] is not None and share["low"] > SHARE_LIMIT:
        return True, f"gives {share['value']:.2f} of the signal of the {REFERENCE}, at least {share['low']:.2f}"
    if share["value"] is None:
        return False if not sight.of_picture else None, str(share["reason"])
    if share["low"] is None:
        return None, str(share["reason"])
    return False, f"not shown to give more than {SHARE_LIMIT:g} of the signal of the {REFERENCE}"
