from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr.errors import DivergedError
from cxr.evaluation.scoring.scoring import score

CPU = torch.device("cpu")


class Flaky(nn.Module):
    """Logits from the mean grey value; dropout and batch statistics would change them in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        mean = image.float().mean(dim=(1, 2, 3)) / 255
        return self.drop(self.norm(torch.stack([mean, 1 - mean], dim=1)))


def batches(order: list[int], size: int = 3) -> Iterator[dict[str, Tensor]]:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(order), 1, 8, 8), dtype=np.uint8))
    for start in range(0, len(order), size):
        index = torch.tensor(order[start : start + size])
        yield {"image": images[index], "index": index}


class Witness(nn.Module):
    """Answers alike for all images, and notes how a GPU would compute its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[bool] = []

    def forward(self, image: Tensor) -> Tensor:
        self.rounds.append(torch.backends.cudnn.allow_tf32)
        return torch.zeros(len(image), 2)


def test_a_gpu_computes_in_full_float32_and_goes_back_to_what_it_was_told() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    assert before == (True, False)
    network = Witness()
    score(network, batches(list(range(7))), CPU, num_images=7, title="test")
    assert network.rounds == [False] * 3
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


def test_scores_come_in_record_order_whatever_the_order_of_the_batches() -> None:
    forward = score(Flaky(), batches(list(range(7))), CPU, num_images=7, title="test")
    backward = score(Flaky(), batches([6, 2, 4, 0, 5, 1, 3]), CPU, num_images=7, title="test")
    assert backward.index.tolist() == list(range(7))
    assert np.array_equal(forward.probabilities, backward.probabilities)


def test_network_answers_as_in_evaluation_and_keeps_its_statistics() -> None:
    network = Flaky().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    scores = score(network, batches(list(range(7))), CPU, num_images=7, title="test")
    assert scores.probabilities.dtype == np.float32
    assert scores.probabilities.sum(axis=1) == pytest.approx(np.ones(7))
    alone = score(network, batches(list(range(7)), size=1), CPU, num_images=7, title="test")
    assert alone.probabilities == pytest.approx(scores.probabilities)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("order", [[0, 1, 2, 2], [0, 1]])
def test_an_image_that_is_missing_or_comes_twice_is_a_broken_loader(order: list[int]) -> None:
    with pytest.raises(RuntimeError, match="records"):
        score(Flaky(), batches(order), CPU, num_images=3 if len(order) == 2 else 4, title="test")


def test_probabilities_that_are_not_finite_end_in_one_line() -> None:
    network = Flaky()
    network.norm.weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="7 of 7 images"):
        score(network, batches(list(range(7))), CPU, num_images=7, title="test")
