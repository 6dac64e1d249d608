from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from cxr.errors import ConfigurationError
from cxr.evaluation.saliency.grad_cam import grad_cam, signed_maps
from cxr.training.module import CXRModule

CELL = 16


def picture(generator: np.random.Generator, cells: list[tuple[int, tuple[int, int]]]) -> np.ndarray:
    """Noise (1, 64, 64) with a bright cell (class 0) or a dark one (class 1) at the given places of a 4 x 4 grid."""
    grey = generator.normal(110, 8, (64, 64))
    for label, (row, column) in cells:
        grey[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)] += -90 if label else 100
    return grey.clip(0, 255).astype(np.uint8)[None]


def reading(backbone: str) -> CXRModule:
    """A network to which nothing but a bright cell speaks for "bright", and nothing but a dark one for "dark".

    Its features are random; the classifier is solved so that it answers 1 where all of the image is so, and 0 where it
    is of the other kind or neither.
    """
    torch.manual_seed(0)
    module = CXRModule(backbone, class_names=["bright", "dark"], positive="dark", image_size=64, pretrained=False)
    module.eval()
    generator = np.random.default_rng(0)
    everywhere = [(row, column) for row in range(4) for column in range(4)]
    kinds = [[(0, place) for place in everywhere], [(1, place) for place in everywhere], []]
    images = np.stack([picture(generator, cells) for cells in kinds for _ in range(4)])
    answers = torch.eye(3)[:, :2].repeat_interleave(4, dim=0)
    network = module.network
    with torch.no_grad():
        grey = torch.from_numpy(images)[:, 0, :, :, None].float()
        pixels = torch.addcmul(module.pixel_offset, grey, module.pixel_scale).permute(0, 3, 1, 2)
        features = network.forward_head(network.forward_features(pixels), pre_logits=True)
        network.get_classifier().weight.copy_(torch.linalg.lstsq(features, answers, driver="gelsd").solution.T)
        network.get_classifier().bias.zero_()
    return module


@pytest.fixture(scope="module")
def convolutional() -> CXRModule:
    return reading("test_resnet")


def small(backbone: str, image_size: int = 64) -> CXRModule:
    torch.manual_seed(0)
    names = ["a", "b", "c"]
    return CXRModule(backbone, class_names=names, positive="a", image_size=image_size, pretrained=False).eval()


def quadrant_shares(maps: np.ndarray) -> np.ndarray:
    """(N, 2, 2): how much of each map lies in each quarter of the image."""
    num, height, width = maps.shape
    quarters = maps.reshape(num, 2, height // 2, 2, width // 2).sum(axis=(2, 4))
    return quarters / quarters.sum(axis=(1, 2), keepdims=True)


def test_each_class_has_its_evidence_where_it_is(convolutional: CXRModule) -> None:
    generator = np.random.default_rng(1)
    images = np.stack([picture(generator, [(0, (0, 0)), (1, (3, 3))]) for _ in range(4)])
    bright = quadrant_shares(grad_cam(convolutional, images, "bright"))
    dark = quadrant_shares(grad_cam(convolutional, images, "dark"))
    # Four in ten would already be far from the quarter of a map that does not know where to look.
    assert bright[:, 0, 0].min() > 0.5
    assert dark[:, 1, 1].min() > 0.5


def test_the_tokens_of_a_transformer_lie_where_their_patches_do() -> None:
    module = small("test_vit")
    with torch.no_grad():  # no patch knows its place: all but the one that looks different are alike
        module.network.pos_embed.zero_()
    for place in [(0, 0), (1, 3), (3, 2)]:
        image = np.full((1, 1, 64, 64), 90, np.uint8)
        image[0, 0, CELL * place[0] : CELL * (place[0] + 1), CELL * place[1] : CELL * (place[1] + 1)] = 220
        found = signed_maps(module, image, "a")[0]
        others = np.delete(found.ravel(), 4 * place[0] + place[1])
        assert np.ptp(others) < 0.01 * abs(found[place] - others.mean())


def test_class_token_transformer_agrees_with_a_plain_backward_pass() -> None:
    module = small("test_vit")
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), dtype=np.uint8)
    tokens: list[torch.Tensor] = []
    handle = module.network.blocks[-1].norm1.register_forward_hook(lambda *given: tokens.append(given[-1]))
    logits = module(torch.from_numpy(images))
    handle.remove()
    gradient = torch.autograd.grad(logits[:, 1].sum(), tokens)[0]
    weights = gradient[:, 1:].mean(dim=1, keepdim=True)
    expected = (weights * tokens[0][:, 1:]).sum(dim=2).view(2, 4, 4)
    np.testing.assert_allclose(signed_maps(module, images, "b"), expected.detach().numpy(), rtol=1e-3, atol=1e-7)


def test_convolutional_network_agrees_with_a_plain_backward_pass() -> None:
    module = small("resnet18")
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), dtype=np.uint8)
    features: list[torch.Tensor] = []
    handle = module.network.layer4.register_forward_hook(lambda *given: features.append(given[-1]))
    logits = module(torch.from_numpy(images))
    handle.remove()
    gradient = torch.autograd.grad(logits[:, 2].sum(), features)[0]
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * features[0]).sum(dim=1)
    np.testing.assert_allclose(signed_maps(module, images, "c"), expected.detach().numpy(), rtol=1e-3, atol=1e-7)


def test_nothing_of_the_module_changes(convolutional: CXRModule) -> None:
    module = copy.deepcopy(convolutional)
    module.network.train()
    module.network.get_classifier().eval()
    state = copy.deepcopy(module.state_dict())
    flags = [part.training for part in module.modules()]
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules()]
    grad_cam(module, np.zeros((2, 1, 64, 64), np.uint8), "bright")
    assert [part.training for part in module.modules()] == flags
    assert [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules()] == hooks
    assert all(parameter.grad is None for parameter in module.parameters())
    after = module.state_dict()
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_saliency_is_that_of_the_network_in_evaluation(convolutional: CXRModule) -> None:
    images = picture(np.random.default_rng(2), [(0, (1, 1))])[None]
    module = copy.deepcopy(convolutional)
    expected = grad_cam(module, images, "bright")
    module.train()
    np.testing.assert_array_equal(grad_cam(module, images, "bright"), expected)


def test_inference_mode_makes_no_difference(convolutional: CXRModule) -> None:
    images = picture(np.random.default_rng(2), [(0, (1, 1))])[None]
    expected = grad_cam(convolutional, images, "dark")
    with torch.inference_mode():
        np.testing.assert_array_equal(grad_cam(convolutional, torch.from_numpy(images), "dark"), expected)


def test_batches_and_floats_give_the_same_maps(convolutional: CXRModule) -> None:
    generator = np.random.default_rng(3)
    images = np.stack([picture(generator, [(0, (0, 1)), (1, (2, 2))]) for _ in range(5)])
    together = grad_cam(convolutional, images, "bright")
    alone = grad_cam(convolutional, images.astype(np.float32), "bright", batch_size=2)
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_no_positive_evidence_gives_a_map_of_zeros(convolutional: CXRModule) -> None:
    module = copy.deepcopy(convolutional)
    with torch.no_grad():  # the features of this network are never negative
        module.network.get_classifier().weight.fill_(-1.0)
    images = picture(np.random.default_rng(4), [(0, (1, 2))])[None]
    assert signed_maps(module, images, "bright").max() <= 0
    np.testing.assert_array_equal(grad_cam(module, images, "bright"), np.zeros((1, 64, 64)))


@pytest.mark.parametrize(
    "backbone",
    [
        "densenet121",
        "convnext_tiny",
        "efficientnet_b0",
        "vit_small_patch16_224",
        "test_vit2",  # register tokens, no class token
        "test_coatnet",
    ],
)
def test_families(backbone: str) -> None:
    module = small(backbone)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), dtype=np.uint8)
    maps = {name: grad_cam(module, images, name) for name in ("a", "c")}
    for each in maps.values():
        assert each.shape == (2, 64, 64)
        assert each.dtype == np.float32
        assert each.min() >= 0
        assert set(each.max(axis=(1, 2)).tolist()) <= {0.0, 1.0}
    signed = {name: signed_maps(module, images, name) for name in ("a", "c")}
    assert all(np.ptp(each, axis=(1, 2)).min() > 0 for each in signed.values())
    assert not np.allclose(signed["a"], signed["c"])


def test_channels_last_features_are_read_the_right_way_round() -> None:
    module = small("swin_tiny_patch4_window7_224")
    assert signed_maps(module, np.full((1, 1, 64, 64), 90, np.uint8), "b").shape == (1, 2, 2)


def test_networks_without_a_map_are_refused() -> None:
    module = small("test_vit")
    module.network.patch_embed.grid_size = None
    with pytest.raises(ConfigurationError, match="features of shape"):
        grad_cam(module, np.zeros((1, 1, 64, 64), np.uint8), "a")


def test_unknown_class_is_refused(convolutional: CXRModule) -> None:
    with pytest.raises(ConfigurationError, match=r"'covid'.*bright, dark"):
        grad_cam(convolutional, np.zeros((1, 1, 64, 64), np.uint8), "covid")
