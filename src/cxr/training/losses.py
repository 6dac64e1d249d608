"""What does training minimise, and what does validation report beside it?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr.errors import ConfigurationError


class TrainingLoss(nn.Module):
    """Cross-entropy with label smoothing and class weights, in float32 whatever the network computes in.

    Args:
        num_classes: C.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1) (Szegedy et al., "Rethinking the
            Inception Architecture", 2016).
        class_weights: C weights > 0, or None. The weighted losses are averaged over the samples, not over the batch's
            weights as torch does it: an image then counts the same whatever else is in its batch, and in a batch of one
            class (or of one image) the weights still count.

    Raises:
        ConfigurationError: a number out of its range, or another number of weights than classes.
    """

    class_weights: Tensor | None

    def __init__(
        self, num_classes: int, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ConfigurationError(f"loss.label_smoothing={label_smoothing}: give a share in [0, 1)")
        if class_weights is not None:
            if len(class_weights) != num_classes:
                raise ConfigurationError(f"class_weights: {len(class_weights)} weights for {num_classes} classes")
            if not all(0 < weight < float("inf") for weight in class_weights):
                raise ConfigurationError(f"class_weights={list(class_weights)}: give finite numbers above 0")
        self.label_smoothing = label_smoothing
        # Not in the state dict: the hyper-parameters carry the weights, and a network without them must still load.
        self.register_buffer(
            "class_weights",
            None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32),
            persistent=False,
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of ``logits`` (B, C) against ``labels`` (B,) int64."""
        if self.class_weights is None:
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        total = F.cross_entropy(
            logits.float(), labels, weight=self.class_weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / len(labels)


def evaluation_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Plain cross-entropy of each sample, (B,): neither smoothed nor weighted, so that runs compare."""
    return F.cross_entropy(logits.float(), labels, reduction="none")
