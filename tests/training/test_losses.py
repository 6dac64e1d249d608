from __future__ import annotations

from typing import Any

import pytest
import torch

from cxr.errors import ConfigurationError
from cxr.training.losses import TrainingLoss, evaluation_losses


def test_weights_count_in_a_batch_of_one_class_too() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 1])
    plain = TrainingLoss(2)(logits, labels)
    weighted = TrainingLoss(2, class_weights=[0.5, 3.0])(logits, labels)
    torch.testing.assert_close(weighted, 3 * plain)


def test_a_batch_is_the_mean_of_its_samples() -> None:
    loss = TrainingLoss(3, class_weights=[0.5, 1.0, 2.0], label_smoothing=0.1)
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 0, 1])
    each = torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(loss(logits, labels), each.mean())


def test_smoothing_keeps_a_sure_answer_from_costing_nothing() -> None:
    logits, labels = torch.tensor([[30.0, -30.0]]), torch.tensor([0])
    assert float(TrainingLoss(2)(logits, labels)) == pytest.approx(0.0, abs=1e-6)
    # A tenth of the target is spread over two classes: half of it lies 60 nats away.
    assert float(TrainingLoss(2, label_smoothing=0.1)(logits, labels)) == pytest.approx(0.05 * 60)


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits = torch.tensor([[11.0, -11.0]], dtype=torch.float16)
    assert TrainingLoss(2)(logits, torch.tensor([0])).dtype == torch.float32
    assert evaluation_losses(logits, torch.tensor([0])).dtype == torch.float32


def test_evaluation_gives_one_plain_loss_per_sample() -> None:
    logits, labels = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(evaluation_losses(logits, labels), torch.full((2,), 0.6931472))


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 1.0},
        {"class_weights": [1.0]},
        {"class_weights": [1.0, 0.0]},
        {"class_weights": [1.0, float("nan")]},
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TrainingLoss(2, **options)
