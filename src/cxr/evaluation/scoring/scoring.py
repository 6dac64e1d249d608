"""What probability does the network give every image?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from cxr.errors import DivergedError
from cxr.evaluation.scoring.test_time import views
from cxr.training.module import CXRModule


@dataclass(frozen=True)
class Scores:
    """One row per image, in the order of the records.

    Args:
        index: (N,) record index, ascending, each once.
        probabilities: (N, C) float32 softmax.
    """

    index: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def score(
    module: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    device: torch.device,
    *,
    num_images: int,
    title: str,
    tta: str = "none",
    progress: bool = True,
) -> Scores:
    """Run the network over the batches, without gradients or dropout, in float32 on every device.

    By default cuDNN rounds the factors of convolutions to 10 bits of fraction (TensorFloat-32); here it does not, so
    that a GPU and a CPU give the same numbers up to the order of summation.

    Args:
        module: maps images uint8 (B, 1, H, W) to logits (B, C).
        batches: dicts with ``image`` and ``index`` (B,).
        device: where the network runs.
        num_images: how many images the batches hold together.
        title: what the progress bar says.
        tta: the views of each image whose probabilities are averaged, see `cxr.evaluation.scoring.test_time.views`.
        progress: whether a bar is shown on a terminal.

    Raises:
        DivergedError: where a probability is not finite.
        RuntimeError: where an image is missing or comes twice: the loader is broken.
    """
    module = module.to(device).eval()
    index, probabilities = [], []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        module.fused() if isinstance(module, CXRModule) else nullcontext(),
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        Progress(*columns, console=console, transient=True, disable=not (progress and console.is_terminal)) as bar,
    ):
        task = bar.add_task(title, total=num_images)
        for batch in batches:
            images = batch["image"].to(device, non_blocking=True)
            answers = [module(view).float().softmax(dim=1) for view in views(images, tta)]
            probabilities.append(torch.stack(answers).mean(dim=0).cpu().numpy())
            index.append(batch["index"].cpu().numpy())
            bar.advance(task, len(index[-1]))
    order = np.argsort(np.concatenate(index))
    scores = Scores(np.concatenate(index)[order], np.concatenate(probabilities)[order])
    if len(scores.index) != num_images or (np.diff(scores.index) == 0).any():
        raise RuntimeError(f"{len(scores.index)} images came for {num_images} records, or one came twice")
    broken = int((~np.isfinite(scores.probabilities).all(axis=1)).sum())
    if broken:
        raise DivergedError(
            f"the network gives no finite probability for {broken} of {num_images} images: its training diverged, "
            "evaluate an earlier checkpoint"
        )
    return scores
