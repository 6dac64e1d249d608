"""What is to be said of where the network looks: how much of it in the lungs, how much of it learned, and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr.evaluation.figure_style import short_name
from cxr.evaluation.saliency.chosen_images import most_confident, most_confident_without_label, spread_over_patients
from cxr.evaluation.saliency.figures import Panel, draw_panels
from cxr.evaluation.saliency.grad_cam import METHOD, grad_cam
from cxr.evaluation.saliency.lung_share import lung_share
from cxr.evaluation.saliency.randomisation import randomisation_check
from cxr.images.lung_masks import MaskFiles, find_lung_masks, prepare_lung_masks
from cxr.images.prepare import Preparation
from cxr.training.module import CXRModule


class ImageRows(Protocol):
    """Prepared images, by row number: a tensor, an array, a memory map, or whatever reads only what it is asked for."""

    def __getitem__(self, rows: NDArray[np.int64]) -> Tensor | NDArray[np.uint8]:
        """uint8 (n, 1, H, W) for n rows."""
        ...


def saliency_entry(
    module: CXRModule,
    images: ImageRows,
    records: pd.DataFrame,
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    positive: str,
    *,
    figures_dir: Path,
    name: str,
    title: str,
    threshold: float | None = None,
    num_panels: int = 4,
    limit: int = 64,
    randomised: int = 16,
    seed: int = 0,
    batch_size: int = 8,
) -> tuple[dict[str, Any], list[Path]]:
    """Measure and draw the evidence for one class.

    Args:
        module: left as it is.
        images: (N, 1, H, W) uint8, prepared as the module says; only rows that are needed are asked for.
        records: (N,) rows of the manifest: columns ``image``, ``path``, ``group``.
        probabilities: (N, C).
        labels: (N,) class, -1 = unlabelled.
        class_names: (C,).
        positive: the class whose evidence is sought; any of them.
        figures_dir: receives ``<name>_saliency_<kind>.png``.
        name: of the split or collection, fit for a file name.
        title: the same in words.
        threshold: see `cxr.training.metrics.predicted_classes`.
        num_panels: images of each kind that are drawn.
        limit: images with lung masks that are measured, at most.
        randomised: images of the randomisation check, at most; each takes ten passes through the network.
        seed: of the choice of images, the random networks and the intervals.
        batch_size: images at once.

    Returns:
        The entry: ``class``, ``method``, ``lung_share``, ``area_share``, ``passed``, ``without_evidence`` (see
        `lung_share`), ``masks`` (what became of the files), ``randomisation`` (see `randomisation_check`), ``limits``,
        ``panels``; and the figures that were drawn.

    Raises:
        ConfigurationError: see `grad_cam`.
    """
    groups = records["group"].tolist()
    preparation = Preparation(module.hparams["image_size"], module.hparams["aspect"])
    files = find_lung_masks(records)

    def maps_of(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        parts = [
            grad_cam(module, images[rows[start : start + batch_size]], positive, batch_size=batch_size)
            for start in range(0, len(rows), batch_size)
        ]
        return np.concatenate(parts) if parts else np.empty((0, preparation.size, preparation.size), np.float32)

    with_mask = np.array(list(files.path_of), np.int64)
    masks = prepare_lung_masks(files, spread_over_patients(with_mask, groups, number=limit, seed=seed), preparation)
    entry: dict[str, Any] = {"class": positive, "method": METHOD}
    entry |= lung_share(maps_of(masks.rows), masks.inside, [groups[row] for row in masks.rows], seed=seed)
    if not files.num_files:
        entry["lung_share"]["reason"] = "no lung masks beside the images"
    entry["masks"] = {
        "files": files.num_files,
        "matched": len(files.path_of),
        "used": len(masks.rows),
        "left_out": {**files.left_out, **masks.left_out},
    }
    checked = spread_over_patients(np.arange(len(records)), groups, number=randomised, seed=seed)
    entry["randomisation"] = randomisation_check(
        module, images[checked], [groups[row] for row in checked], positive, seed=seed, batch_size=batch_size
    )
    entry["limits"] = {"lung_share": limit, "randomisation": randomised, "panels": num_panels}

    chosen = most_confident(
        probabilities, labels, list(class_names).index(positive), groups, number=num_panels, threshold=threshold
    )

    def panels_of(rows: NDArray[np.int64]) -> list[Panel]:
        return _panels(
            rows, maps_of(rows), images, records, probabilities, labels, class_names, positive, files, preparation
        )

    figures = _draw(
        chosen, panels_of, figures_dir / f"{name}_saliency", f"{title}: evidence for {short_name(positive)}"
    )
    entry["panels"] = [path.name for path in figures]
    return entry, figures


def draw_evidence_without_labels(
    module: CXRModule,
    images: ImageRows,
    records: pd.DataFrame,
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    positive: str,
    *,
    figures_dir: Path,
    name: str,
    title: str,
    threshold: float | None = None,
    num_panels: int = 4,
    batch_size: int = 8,
) -> list[Path]:
    """Draw the evidence for one class in the images of which the network is surest, where none has a label.

    Args:
        module, images, records, probabilities, class_names, positive, figures_dir, name, title, threshold, num_panels,
            batch_size: see `saliency_entry`.

    Returns:
        The figures: ``<name>_saliency_called_positive.png`` and ``<name>_saliency_called_negative.png``, each where
        there is such an image.

    Raises:
        ConfigurationError: see `grad_cam`.
    """
    preparation = Preparation(module.hparams["image_size"], module.hparams["aspect"])
    files, labels = find_lung_masks(records), np.full(len(records), -1)
    chosen = most_confident_without_label(
        probabilities, list(class_names).index(positive), records["group"].tolist(), number=num_panels,
        threshold=threshold,
    )  # fmt: skip

    def panels_of(rows: NDArray[np.int64]) -> list[Panel]:
        maps = grad_cam(module, images[rows], positive, batch_size=batch_size)
        return _panels(rows, maps, images, records, probabilities, labels, class_names, positive, files, preparation)

    return _draw(chosen, panels_of, figures_dir / f"{name}_saliency", f"{title}: evidence for {short_name(positive)}")


def _draw(
    chosen: Mapping[str, NDArray[np.int64]],
    panels_of: Callable[[NDArray[np.int64]], list[Panel]],
    stem: Path,
    title: str,
) -> list[Path]:
    """A figure of each kind of which there is an image: ``<stem>_<kind>.png``."""
    figures = []
    for kind, rows in chosen.items():
        if len(rows):
            figures.append(stem.with_name(f"{stem.name}_{kind.replace(' ', '_')}.png"))
            draw_panels(panels_of(rows), figures[-1], title=f"{title}, {kind}")
    return figures


def _panels(
    rows: NDArray[np.int64],
    maps: NDArray[np.float32],
    images: ImageRows,
    records: pd.DataFrame,
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    positive: str,
    files: MaskFiles,
    preparation: Preparation,
) -> list[Panel]:
    masks = prepare_lung_masks(
        files, np.array([row for row in rows if int(row) in files.path_of], np.int64), preparation
    )
    inside = dict(zip(masks.rows.tolist(), masks.inside, strict=True))
    pixels = torch.as_tensor(images[rows])[:, 0].cpu().numpy()
    column = list(class_names).index(positive)
    return [
        Panel(
            pixels[place],
            maps[place],
            inside.get(int(row)),
            (
                f"{short_name(positive, 14)}: {probabilities[row, column]:.3f}",
                f"label: {short_name(class_names[labels[row]], 20)}" if labels[row] >= 0 else "no label",
                _file_name(str(records["image"].iloc[row])),
            ),
        )
        for place, row in enumerate(rows)
    ]


def _file_name(image: str) -> str:
    """Its last part, without what no typeface shows."""
    return short_name(re.sub(r"[^\x20-\x7e]", "?", PurePosixPath(image).name), 26)
