"""What does training minimise, and what does validation report beside it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr.errors import ConfigurationError

LOSSES: Final = ("cross_entropy", "focal", "logit_adjusted")


class TrainingLoss(nn.Module):
    """The loss of logits z of C classes against a class y, in float32 whatever the network computes in.

    With p = softmax(z) and the weight w_y of a class (1 without class weights):

    - ``cross_entropy``: -w_y log p_y;
    - ``focal``: -w_y (1 - p_y)^gamma log p_y. What is answered well already counts less; gamma = 0 is cross-entropy
      (Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", 2017);
    - ``logit_adjusted``: cross-entropy of z + tau log(prior), where the prior is the share of each class in the
      training images. The network learns the answer for classes of equal size, and gives it without the adjustment
      (Menon, Jayasumana, Rawat, Jain, Veit and Kumar, "Long-tail learning via logit adjustment", 2021).

    All are linear in the target, so that an image that is mixed of two has the mean of both losses, by their shares
    (Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018).

    Args:
        num_classes: C, at least 2.
        name: one of `LOSSES`.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1) (Szegedy et al., "Rethinking the
            Inception Architecture", 2016). Not for ``focal``, which would count what is spread over the classes that
            are rightly called unlikely more than all else.
        gamma: of ``focal``, at least 0.
        tau: of ``logit_adjusted``, at least 0; 0 is cross-entropy, 1 is right for the mean recall of the classes.
        class_weights: C weights > 0, or None. The weighted losses are averaged over the samples, not over the batch's
            weights as torch does it: an image then counts the same whatever else is in its batch, and in a batch of one
            class (or of one image) the weights still count.
        class_priors: C shares > 0 that sum to 1; needed by ``logit_adjusted`` alone.

    Raises:
        ConfigurationError: an unknown name, a number out of its range, another number of weights or priors than
            classes, or two settings that contradict each other.
    """

    class_weights: Tensor | None
    adjustment: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        name: str = "cross_entropy",
        label_smoothing: float = 0.0,
        gamma: float = 2.0,
        tau: float = 1.0,
        class_weights: Sequence[float] | None = None,
        class_priors: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if name not in LOSSES:
            raise ConfigurationError(f"loss.name={name}: one of {', '.join(LOSSES)}")
        if not 0 <= label_smoothing < 1:
            raise ConfigurationError(f"loss.label_smoothing={label_smoothing}: give a share in [0, 1)")
        if name == "focal" and label_smoothing > 0:
            raise ConfigurationError(
                f"loss.label_smoothing={label_smoothing} with loss.name=focal: not defined for it; leave one out"
            )
        for key, value in (("gamma", gamma), ("tau", tau)):
            if not 0 <= value < math.inf:
                raise ConfigurationError(f"loss.{key}={value}: give a finite number, at least 0")
        if class_weights is not None:
            _check_per_class("class_weights", class_weights, num_classes)
        if name == "logit_adjusted":
            if class_priors is None:
                raise ConfigurationError("loss.name=logit_adjusted: needs the share of each class, class_priors=[...]")
            _check_per_class("class_priors", class_priors, num_classes)
            if not math.isclose(sum(class_priors), 1, abs_tol=1e-6):
                raise ConfigurationError(f"class_priors={list(class_priors)}: shares, which sum to 1")
        self.label_smoothing = label_smoothing
        self.gamma = gamma if name == "focal" else None
        # Not in the state dict: the hyper-parameters carry both, and a network without them must still load.
        self.register_buffer(
            "class_weights",
            None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32),
            persistent=False,
        )
        adjusts = name == "logit_adjusted" and class_priors is not None
        self.register_buffer(
            "adjustment",
            tau * torch.tensor(list(class_priors or ()), dtype=torch.float64).log().float() if adjusts else None,
            persistent=False,
        )

    def forward(
        self, logits: Tensor, labels: Tensor, partners: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: (B, C).
            labels: (B,) int64, 0 to C - 1.
            partners: (B,) int64, the class of what was mixed into each image; None: nothing was.
            share: (B,) float32 in 0..1, how much of each image is of the class in ``labels``.
        """
        losses = self._losses(logits.float(), labels)
        if partners is not None and share is not None:
            losses = share * losses + (1 - share) * self._losses(logits.float(), partners)
        return losses.mean()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) of float32 logits (B, C)."""
        if self.adjustment is not None:
            logits = logits + self.adjustment
        losses = F.cross_entropy(
            logits, labels, weight=self.class_weights, label_smoothing=self.label_smoothing, reduction="none"
        )
        if self.gamma is not None:
            losses = losses * torch.exp(self.gamma * _log_of_rest(logits, labels))
        return losses


def evaluation_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Plain cross-entropy of each sample, (B,): neither smoothed, weighted nor adjusted, so that runs compare."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def _log_of_rest(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 - p_y), (B,): from the logits of the other classes, so that it stays finite, and its gradient with it.

    The power of 1 - p itself has no gradient where an answer is so sure that p is rounded to 1.
    """
    is_own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(is_own, -math.inf).logsumexp(1) - logits.logsumexp(1)


def _check_per_class(key: str, values: Sequence[float], num_classes: int) -> None:
    if len(values) != num_classes:
        raise ConfigurationError(f"{key}: {len(values)} numbers for {num_classes} classes")
    if not all(0 < value < math.inf for value in values):
        raise ConfigurationError(f"{key}={list(values)}: give finite numbers above 0")
