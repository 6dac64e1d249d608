from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision

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
        {"name": "hinge"},
        {"name": "focal", "gamma": -1.0},
        {"name": "focal", "label_smoothing": 0.1},
        {"name": "logit_adjusted"},
        {"name": "logit_adjusted", "class_priors": [1.0, 0.0]},
        {"name": "logit_adjusted", "class_priors": [0.9, 0.9]},
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TrainingLoss(2, **options)


def _batch(num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(12, num_classes, generator=generator)
    return logits, torch.randint(0, num_classes, (12,), generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_is_its_formula(gamma: float) -> None:
    logits, labels = _batch()
    weights = [0.5, 1.0, 2.5]
    expected = []
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        p = np.exp(row[label]) / np.exp(row).sum()
        expected.append(-weights[label] * (1 - p) ** gamma * np.log(p))
    loss = TrainingLoss(3, name="focal", gamma=gamma, class_weights=weights)
    assert float(loss(logits, labels)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_focal_loss_of_two_classes_is_the_binary_one() -> None:
    logits, labels = _batch(2)
    binary = torchvision.ops.sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], labels.float(), alpha=-1, gamma=2.0, reduction="mean"
    )
    torch.testing.assert_close(TrainingLoss(2, name="focal", gamma=2.0)(logits, labels), binary)


def test_logit_adjustment_is_its_formula() -> None:
    logits, labels = _batch()
    priors, tau = np.array([0.7, 0.2, 0.1]), 1.5
    expected = []
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        # Equation 10 of the paper.
        others = [c for c in range(3) if c != label]
        expected.append(np.log1p(sum((priors[c] / priors[label]) ** tau * np.exp(row[c] - row[label]) for c in others)))
    loss = TrainingLoss(3, name="logit_adjusted", tau=tau, class_priors=priors.tolist())
    assert float(loss(logits, labels)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_logit_adjustment_makes_a_network_that_knows_only_the_priors_indifferent() -> None:
    # Of 90 and 10 images that nothing tells apart, the best logits are equal: the answer for classes of equal size.
    labels = torch.tensor([0] * 90 + [1] * 10)
    logits = torch.zeros(2, requires_grad=True)
    loss = TrainingLoss(2, name="logit_adjusted", class_priors=[0.9, 0.1])(logits.expand(100, 2), labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "cross_entropy", "label_smoothing": 0.1},
        {"name": "focal", "gamma": 2.0},
        {"name": "focal", "gamma": 0.5},  # a power with an infinite slope at 0
        {"name": "logit_adjusted", "class_priors": [0.98, 0.01, 0.01]},
    ],
)
def test_sure_answers_right_or_wrong_have_finite_losses_and_gradients(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    extremes = torch.tensor([[6e4, -6e4, 0.0], [100.0, -100.0, 0.0], [20.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for label in range(3):
        logits = extremes.to(dtype).requires_grad_()
        loss = TrainingLoss(3, **options)(logits, torch.full((4,), label))
        loss.backward()
        assert logits.grad is not None
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"name": "cross_entropy", "label_smoothing": 0.1, "class_weights": [0.5, 1.0, 2.0]},
        {"name": "focal", "class_weights": [0.5, 1.0, 2.0]},
        {"name": "logit_adjusted", "class_priors": [0.5, 0.3, 0.2]},
    ],
)
def test_a_mixed_image_has_the_mean_of_both_losses_by_its_shares(options: dict[str, Any]) -> None:
    loss = TrainingLoss(3, **options)
    logits, labels = _batch()
    partners = labels.roll(1)
    share = torch.linspace(0, 1, len(labels))
    each = [
        lam * loss(logits[i : i + 1], labels[i : i + 1]) + (1 - lam) * loss(logits[i : i + 1], partners[i : i + 1])
        for i, lam in enumerate(share.tolist())
    ]
    torch.testing.assert_close(loss(logits, labels, partners, share), torch.stack(each).mean())
    torch.testing.assert_close(loss(logits, labels, partners, torch.ones(12)), loss(logits, labels))
