"""Where in a radiograph does the network find its evidence for a class?  Grad-CAM.

Selvaraju RR, Cogswell M, Das A, Vedantam R, Parikh D, Batra D (2017), "Grad-CAM: Visual Explanations from Deep Networks
via Gradient-based Localization": each channel of the last feature map is weighted with the mean gradient of the class's
logit, and the sum is kept where it is positive.

The features are what timm's ``forward_features`` gives to ``forward_head``: a map, or the tokens of a grid of patches.
Only what follows them is differentiated, so that a map costs little more than a forward pass. Where the classifier
reads a class token alone, no gradient reaches the other tokens there, and the tokens that the last attention reads
take their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cxr.errors import ConfigurationError
from cxr.training.module import CXRModule

METHOD = "Grad-CAM (Selvaraju et al. 2017), last feature map"


def grad_cam(
    module: CXRModule, images: Tensor | NDArray[Any], class_name: str, *, batch_size: int = 8
) -> NDArray[np.float32]:
    """The evidence for one class, pixel by pixel.

    The coarse map is enlarged bilinearly and divided by its greatest value, so that maps of different images tell
    nothing of each other's strength. A map without any positive evidence stays zero.

    Args:
        module: left as it is; dropout takes no part.
        images: (N, 1, H, W), uint8 or float of 0 to 255, N at least 1.
        class_name: any of the module's classes.
        batch_size: images at once.

    Returns:
        (N, H, W), 0 to 1.

    Raises:
        ConfigurationError: a class that the network does not know; a network without a map of features.
    """
    coarse = torch.from_numpy(signed_maps(module, images, class_name, batch_size=batch_size)).clamp_min(0)
    height, width = images.shape[-2:]
    maps = F.interpolate(coarse[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    greatest = maps.amax(dim=(1, 2), keepdim=True)
    scaled: NDArray[np.float32] = torch.where(greatest > 0, maps / greatest, 0.0).numpy()
    return scaled


def signed_maps(
    module: CXRModule,
    images: Tensor | NDArray[Any],
    class_name: str,
    *,
    network: nn.Module | None = None,
    batch_size: int = 8,
) -> NDArray[np.float32]:
    """The weighted sum of the features as it is: evidence for the class and, below zero, against it.

    Args:
        module, images, class_name, batch_size: see `grad_cam`.
        network: takes the place of the module's own; on the same device.

    Returns:
        (N, h, w) at the resolution of the features, not scaled.

    Raises:
        ConfigurationError: see `grad_cam`.
    """
    if class_name not in module.class_names:
        raise ConfigurationError(
            f"saliency class {class_name!r}: the network knows {', '.join(module.class_names)}; give one of them"
        )
    target = module.class_names.index(class_name)
    network = module.network if network is None else network
    maps = []
    with torch.inference_mode(False), _evaluating(network):
        for start in range(0, len(images), batch_size):
            batch = torch.as_tensor(images[start : start + batch_size]).to(module.device)
            pixels = module.normalised(batch[:, 0].to(module.pixel_scale.dtype))
            maps.append(_weighted_sum(network, pixels, target).cpu().numpy())
    return np.concatenate(maps).astype(np.float32)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _weighted_sum(network: Any, pixels: Tensor, target: int) -> Tensor:
    """(B, h, w) from normalised pixels (B, 3, H, W)."""
    sources = _features(network, pixels)
    with torch.enable_grad():
        logit = network.forward_head(sources[0])[:, target].sum()
        gradients = torch.autograd.grad(logit, sources, allow_unused=True)
    places = [
        (_as_grid(network, features.detach()), _as_grid(network, gradient))
        for features, gradient in zip(sources, gradients, strict=True)
        if gradient is not None
    ]
    # The first, unless the classifier does not look at it.
    features, gradient = next((place for place in places if bool(place[1].any())), places[0])
    return (features * gradient.mean(dim=(1, 2), keepdim=True)).sum(dim=-1)


def _features(network: Any, pixels: Tensor) -> list[Tensor]:
    """What the classifier is given, and what the last attention reads where there is one, fit to be derived by."""
    read: list[Tensor] = []

    def watch(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # From here on, within the no_grad below: what lies before needs no graph.
        torch.set_grad_enabled(True)
        read.append(inputs[0].detach().requires_grad_())
        return (read[-1], *inputs[1:])

    blocks = getattr(network, "blocks", None)
    attention = getattr(blocks[-1], "attn", None) if isinstance(blocks, Sequence | nn.Sequential) else None
    handle = attention.register_forward_pre_hook(watch) if isinstance(attention, nn.Module) else None
    try:
        with torch.no_grad():
            features = network.forward_features(pixels)
    finally:
        if handle is not None:
            handle.remove()
    return [features if features.requires_grad else features.detach().requires_grad_(), *read]


def _as_grid(network: Any, values: Tensor) -> Tensor:
    """Features as (B, h, w, C); tokens lose those that stand for no patch and come first."""
    if values.ndim == 4:
        return values if getattr(network, "output_fmt", "NCHW") == "NHWC" else values.permute(0, 2, 3, 1)
    height, width = getattr(getattr(network, "patch_embed", None), "grid_size", None) or (0, 0)
    num_patches = height * width
    if values.ndim != 3 or not 0 < num_patches <= values.shape[1]:
        raise ConfigurationError(
            f"saliency: {type(network).__name__} gives features of shape {tuple(values.shape)}, neither a map nor a "
            "grid of patches; use a convolutional network or a vision transformer, or leave saliency out"
        )
    return values[:, -num_patches:].reshape(len(values), height, width, -1)
