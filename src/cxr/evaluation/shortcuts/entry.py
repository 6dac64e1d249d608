"""How much of its power to tell the classes apart does a network keep without the lungs, and on re-encoded pictures?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr.audit.verdict import SHARE_LIMIT
from cxr.evaluation.saliency.chosen_images import spread_over_patients
from cxr.evaluation.saliency.entry import ImageRows
from cxr.evaluation.scoring.scoring import score
from cxr.evaluation.shortcuts.pictures import JPEG_QUALITY, alterations
from cxr.statistics.areas import area_interval, areas_within, share_above_chance
from cxr.statistics.resampling import patient_resamples
from cxr.training.module import CXRModule

LIMIT = 512
# Below this at the upper limit, re-encoding is shown to cost more than a fifth: the network reads how files are stored.
KEPT_LIMIT = 0.8
_SHORTCUTS = ("without lungs", "border only")


def shortcuts_entry(
    module: CXRModule,
    images: ImageRows,
    records: pd.DataFrame,
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    positive: str,
    *,
    device: torch.device,
    tta: str = "none",
    limit: int = LIMIT,
    num_resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
) -> dict[str, Any]:
    """Ask the network again, about altered pictures, once for each alteration.

    The cost is five passes over at most `limit` images; no file is opened.

    Args:
        module: the network; its size and aspect say how the images were prepared.
        images: (N, 1, H, W) uint8, prepared as the module says; only rows that are needed are asked for.
        records: (N,) rows of the manifest: column ``group``.
        probabilities: (N, C) of the unaltered images.
        labels: (N,) 0..C-1.
        class_names: (C,).
        positive: the class of the AUROC, against the rest.
        device: where the network runs.
        tta: as for `probabilities`.
        limit: images that are asked about, at most; from each side of the label as many, patients before their second
            images, while there are.
        num_resamples, seed: of the patients, behind every interval; `seed` also of the choice.
        batch_size: images at once.
        progress: show bars on a terminal.

    Returns:
        ``images``, ``patients``, ``of`` (images that there are), ``limit``; ``auroc`` of the unaltered images
        (``value``, ``low``, ``high``, ``method``); ``rows``, one for each alteration: ``input``, ``auroc``, ``kept``
        (its share of the signal, (AUROC - 0.5) / (AUROC unaltered - 0.5), with limits from the same resamples of the
        patients; None where undefined, with a ``reason``), ``flagged`` (None where no rule applies or nothing is known)
        and ``verdict``, a sentence; ``limits``, by which is flagged; ``jpeg_quality``. Where one side has no image
        ``rows`` is empty and ``reason`` says so.

    Raises:
        DivergedError: the network gives no finite probability.
    """
    target = list(class_names).index(positive)
    every_group = records["group"].astype(str).tolist()
    rows = _choose(labels == target, every_group, limit, seed)
    is_positive = labels[rows] == target
    groups = np.array(every_group)[rows]
    entry: dict[str, Any] = {
        "images": len(rows),
        "patients": len(set(groups)),
        "of": len(records),
        "limit": limit,
        "rows": [],
        "limits": {"kept": SHARE_LIMIT, "kept_re_encoded": KEPT_LIMIT},
        "jpeg_quality": JPEG_QUALITY,
    }
    sides = [len(set(groups[side])) for side in (is_positive, ~is_positive)]
    if not all(sides):
        missing = positive if not sides[0] else f"anything but {positive}"
        return entry | {"reason": f"no image of {missing}: the AUROC is undefined"}

    drawn = patient_resamples(groups, is_positive.astype(np.int64), num_resamples=num_resamples, seed=seed)
    weights = np.concatenate([np.ones((1, len(rows)), np.uint16), drawn])

    def estimate(areas: NDArray[np.float64]) -> dict[str, Any]:
        return {"value": float(areas[0])} | asdict(area_interval(float(areas[0]), areas[1:], sides[0], sides[1]))

    whole = areas_within(probabilities[rows, target], is_positive, weights)
    entry["auroc"] = estimate(whole)

    def pictures() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for start in range(0, len(rows), batch_size):
            yield start, torch.as_tensor(images[rows[start : start + batch_size]])[:, 0].cpu().numpy()

    mean = np.rint(sum(some.sum(axis=0, dtype=np.float64) for _, some in pictures()) / len(rows)).astype(np.uint8)
    for name, alter in alterations(module.hparams["aspect"], mean).items():

        def batches(alter: Any = alter) -> Iterator[dict[str, Tensor]]:
            for start, some in pictures():
                index = torch.arange(start, start + len(some))
                yield {"image": torch.from_numpy(alter(some))[:, None], "index": index}

        answers = score(
            module, batches(), device, num_images=len(rows), title=f"Shown {name}", tta=tta, progress=progress
        ).probabilities
        areas = areas_within(answers[:, target], is_positive, weights)
        kept = share_above_chance(areas, whole, entry["auroc"]["low"], min(sides), of="the network on whole pictures")
        flagged, verdict = _judge(name, kept)
        entry["rows"].append(
            {"input": name, "auroc": estimate(areas), "kept": kept, "flagged": flagged, "verdict": verdict}
        )
    return entry


def _choose(is_positive: NDArray[np.bool_], groups: Sequence[str], limit: int, seed: int) -> NDArray[np.int64]:
    """As many of each side as there are, up to half the limit; what one side lacks the other fills up."""
    sides = [np.flatnonzero(side) for side in (is_positive, ~is_positive)]
    room = [max(limit // 2, limit - len(other)) for other in reversed(sides)]
    chosen = [
        spread_over_patients(side, groups, number=most, seed=seed) for side, most in zip(sides, room, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _judge(name: str, kept: dict[str, Any]) -> tuple[bool | None, str]:
    if kept["value"] is None or kept["low"] is None:
        return None, str(kept["reason"])
    said = (
        f"keeps {kept['value']:.2f} ({kept['low']:.2f} to {kept['high']:.2f}) of its AUROC above chance {_WORDS[name]}"
    )
    if name in _SHORTCUTS:
        flagged = bool(kept["low"] > SHARE_LIMIT)
        return (
            flagged,
            f"{said}: {'it reads something else than the lungs' if flagged else 'not shown to need no lungs'}",
        )
    if name == "re-encoded":
        flagged = bool(kept["high"] < KEPT_LIMIT)
        return flagged, said + (": it reads how the files are stored" if flagged else "")
    return None, said


_WORDS = {
    "without lungs": "without the lungs",
    "lungs only": "with nothing but the lungs",
    "border only": "with nothing but a border",
    "re-encoded": "once all pictures are stored alike",
    "re-encoded at half size": "once all pictures are stored alike at half the size",
}
