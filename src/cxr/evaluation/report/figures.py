"""Which PNG files of a run belong to which section of its report?"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr.evaluation.figure_style import DPI
from cxr.evaluation.report.contents import Contents
from cxr.evaluation.report.parts import Picture
from cxr.evaluation.words import read_estimate, title_of, with_limits

CSS_PIXELS_PER_INCH = 96
WIDE = 620  # CSS pixels from which a figure is not read at the width of a phone
THUMBNAIL = 256  # pixels of the longer side
# Section, what the name after "<split>_" begins with, and the figure in words. The first that fits counts.
KINDS = (
    ("training", "training_curves", "Training curves: loss, validation scores and learning rate over the epochs"),
    ("classes", "class_counts", "Images of each class"),
    ("confusion", "confusion", "Confusion matrix, rows actual, columns predicted"),
    ("curves", "roc", "ROC curve: sensitivity against false-positive rate"),
    ("curves", "precision_recall", "Precision-recall curve"),
    ("calibration", "reliability", "Reliability diagram: observed frequency against predicted probability"),
    ("calibration", "calibration", "Calibration"),
    ("operating", "operating", "Operating points"),
    ("operating", "threshold", "Thresholds"),
    ("operating", "decision", "Decision curve"),
    ("subgroups", "subgroup", "Subgroups: estimate and interval of each"),
    ("subgroups", "forest", "Subgroups: estimate and interval of each"),
    ("dependence", "dependence", "How the label depends on other columns"),
    ("saliency", "saliency", "Grad-CAM: where the evidence lies"),
    ("saliency", "gradcam", "Grad-CAM: where the evidence lies"),
)
RADIOGRAPHS = ("saliency",)  # sections whose figures show patients' images


def find_figures(contents: Contents) -> dict[tuple[str, str], list[Path]]:
    """(section, name of the entry or '') -> PNG files in the order of ``KINDS``; section 'other' holds the rest.

    Figures of entries that are not shown are left out.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(contents.run.figures_dir.glob("*.png"), key=_rank):
        # The longest: "test_2_roc" belongs to the collection test_2, not to test.
        owners = [name for name in contents.all_names if path.stem.startswith(f"{name}_")]
        owner = max(owners, key=len, default="")
        if owner and owner not in contents.entries:
            continue
        kind = path.stem.removeprefix(f"{owner}_") if owner else path.stem
        section = next((section for section, start, _ in KINDS if kind.startswith(start)), "other")
        found.setdefault((section, owner), []).append(path)
    return found


def _rank(path: Path) -> tuple[int, str]:
    starts = [place for place, (_, start, _) in enumerate(KINDS) if start in path.stem]
    return min(starts, default=len(KINDS)), path.stem


def embed(path: Path, name: str, entry: Mapping[str, object] | None = None) -> Picture | None:
    """A figure as part of the page; None where the file is no PNG that can be read.

    Args:
        path: the file.
        name: of the entry that it belongs to; '' for none.
        entry: what ``metrics.json`` holds of it; its numbers go into the description.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError):  # Pillow's for a damaged PNG
        return None
    kind = path.stem.removeprefix(f"{name}_") if name else path.stem
    said = next((text for _, start, text in KINDS if kind.startswith(start)), kind.replace("_", " "))
    detail = kind.partition("saliency_")[2].replace("_", " ")
    what = f"{said}{f', {detail}' if detail else ''}"
    alt = f"{what}, {title_of(name)}" if name else what
    for start, metric in (("roc", "auroc"), ("precision_recall", "average_precision"), ("confusion", "accuracy")):
        if entry is not None and kind.startswith(start) and metric in entry:
            estimate = read_estimate(metric, entry[metric])
            alt += f"; {estimate.title} {with_limits(estimate)}"
    shown = width * CSS_PIXELS_PER_INCH / DPI
    return Picture(
        base64.b64encode(data).decode("ascii"),
        round(shown),
        round(height * CSS_PIXELS_PER_INCH / DPI),
        alt,
        f"{what}.",
        shown > WIDE,
    )


def thumbnail(pixels: NDArray[np.uint8], longest: int = THUMBNAIL) -> bytes:
    """A PNG of an image (H, W) of grey values, its longer side at most so many pixels."""
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def thumbnail_picture(pixels: NDArray[np.uint8], longest: int = THUMBNAIL) -> Picture:
    """A thumbnail as part of the page, without a description yet."""
    data = thumbnail(pixels, longest)
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    return Picture(base64.b64encode(data).decode("ascii"), width, height, "", "")


def picture_of(path: Path, caption: str, *, wide: int = WIDE) -> Picture:
    """A PNG file that is no figure of a run, to be embedded.

    Args:
        path: the file.
        caption: below it, and for those who do not see it.
        wide: CSS pixels from which it is not read at the width of a phone.
    """
    data = path.read_bytes()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        width, height = (round(side * CSS_PIXELS_PER_INCH / DPI) for side in image.size)
    return Picture(base64.b64encode(data).decode("ascii"), width, height, caption, caption, width > wide)
