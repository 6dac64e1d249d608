from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cxr.training.fused_inference import FusedConvolution, FusedNetwork, fuse_for_inference
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer


def lived_in(network: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that do something, as after a training."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in (
                (part.weight.data, 0.5, 1.5),
                (part.bias.data, -0.5, 0.5),
                (part.running_mean, -0.3, 0.3),
                (part.running_var, 0.5, 2.0),
            ):
                assert values is not None
                values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
    return network.eval()


def images(num: int, size: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last)


def fused_parts(network: nn.Module) -> list[FusedConvolution]:
    return [part for part in network.modules() if isinstance(part, FusedConvolution)]


@pytest.mark.parametrize(
    "name",
    [
        "resnet10t",
        "resnet18",
        "resnet50",
        "densenet121",
        "efficientnet_b0",
        "gcresnet33ts",  # adds what is one pixel large
        "seresnet50",
        "resnetv2_50",  # normalises before it convolves
    ],
)
def test_the_answers_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    network = lived_in(timm.create_model(name, num_classes=3, pretrained=False))
    with torch.inference_mode():
        given = images(2, 64)
        kept = given.clone()
        before = network(given)
        fused = fuse_for_inference(network)
        assert fused_parts(fused)
        for _ in range(2):  # the second time with weights that are laid out already
            torch.testing.assert_close(fused(given), before, rtol=1e-4, atol=1e-5)
        other = images(3, 96)
        torch.testing.assert_close(fused(other), network(other), rtol=1e-4, atol=1e-5)
        assert torch.equal(given, kept)
        assert torch.equal(network(given), before)


def test_every_batch_norm_of_a_resnet_and_every_addition_becomes_part_of_a_convolution() -> None:
    fused = fuse_for_inference(timm.create_model("resnet18", num_classes=2, pretrained=False).eval())
    assert not any(isinstance(part, (nn.BatchNorm2d, nn.ReLU, nn.Conv2d)) for part in fused.modules())
    assert len(fused_parts(fused)) == 20


def test_a_network_with_nothing_to_fuse_is_returned_as_it_is() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=2, pretrained=False).eval()
    assert fuse_for_inference(network) is network


def test_a_network_that_cannot_be_followed_is_returned_as_it_is() -> None:
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))

        def forward(self, image: Tensor) -> Tensor:
            return image if image.mean() > 0 else self.layer(image)

    network = Undecided().eval()
    assert fuse_for_inference(network) is network


@pytest.mark.parametrize("broken", [float("nan"), 1e38])
def test_what_is_not_a_number_is_not_turned_into_an_answer(broken: float) -> None:
    torch.manual_seed(0)
    network = lived_in(timm.create_model("resnet10t", num_classes=2, pretrained=False))
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.fill_(broken)
    with torch.inference_mode():
        assert not torch.isfinite(network(images(2, 32))).any()
        fused = fuse_for_inference(network)
        assert fused_parts(fused)
        assert not torch.isfinite(fused(images(2, 32))).any()


def test_new_weights_count_from_the_next_answers_on() -> None:
    network = lived_in(timm.create_model("test_resnet", num_classes=2, pretrained=False))
    fused = fuse_for_inference(network)
    assert isinstance(fused, FusedNetwork)
    with torch.inference_mode():
        fused(images(2, 32))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                part.running_mean.add_(0.1)
    fused.forget()
    with torch.inference_mode():
        torch.testing.assert_close(fused(images(2, 32)), network(images(2, 32)), rtol=1e-4, atol=1e-5)


def test_half_precision_is_left_alone() -> None:
    network = timm.create_model("test_resnet", num_classes=2, pretrained=False).eval().to(torch.bfloat16)
    assert fuse_for_inference(network) is network


class Residual(nn.Module):
    """Two convolutions of which the second is added to a summand that is read once more, afterwards or as a view."""

    def __init__(self, after: Callable[[Tensor, Tensor], Tensor], before: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.act = nn.ReLU()
        self._before, self._after = before, after

    def forward(self, image: Tensor) -> Tensor:
        summand = self.first(image)
        seen = self._before(summand)
        return self._after(self.act(self.second(summand) + summand), seen)


@pytest.mark.parametrize("before", [torch.sin, lambda summand: summand, lambda summand: summand.flatten(2)])
def test_what_is_read_again_is_not_written_over(before: Callable[[Tensor], Tensor]) -> None:
    network = lived_in(Residual(lambda result, seen: result.flatten(2) * seen.flatten(2), before))
    with torch.inference_mode():
        fused = fuse_for_inference(network)
        assert len(fused_parts(fused)) == 2
        torch.testing.assert_close(fused(images(2, 16)), network(images(2, 16)), rtol=1e-4, atol=1e-5)


def test_an_image_that_is_added_stays_as_it_was() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))

        def forward(self, image: Tensor) -> Tensor:
            return self.layer(image) + image

    network, given = lived_in(Skip()), images(2, 16)
    with torch.inference_mode():
        kept = given.clone()
        torch.testing.assert_close(fuse_for_inference(network)(given), network(given), rtol=1e-4, atol=1e-5)
    assert torch.equal(given, kept)


def test_a_module_answers_with_it_only_within_and_only_without_gradients(
    make_module: Callable[..., CXRModule],
) -> None:
    module = make_module().eval()
    lived_in(module.network)
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        before = module(pixels)
    names = set(module.state_dict())
    with module.fused():
        with torch.inference_mode():
            torch.testing.assert_close(module(pixels), before, rtol=1e-4, atol=1e-5)
        module(pixels).sum().backward()
        assert all(parameter.grad is not None for parameter in module.network.parameters())
        assert set(module.state_dict()) == names
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.zero_()
        assert module(pixels).abs().max() == 0


def test_every_validation_sees_the_weights_of_its_own_epoch(
    tmp_path: Any, make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    module = make_module(optimizer={"lr": 0.01})
    trainer = build_trainer(run_dir=RunDirectory.create(tmp_path, "exp"), max_epochs=2, gpus=0, progress=False)
    labels = [0, 1] * 8
    trainer.fit(module, loader(labels), loader(labels, seed=3))
    validated = module.epoch_metrics["val"]["val/loss"]
    again = trainer.validate(module, loader(labels, seed=3), verbose=False)[0]["val/loss"]
    assert again == pytest.approx(validated, abs=1e-6)
    module.eval()
    with torch.inference_mode():
        losses = [
            nn.functional.cross_entropy(module(batch["image"]), batch["label"], reduction="none")
            for batch in loader(labels, seed=3)
        ]
    assert validated == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)
