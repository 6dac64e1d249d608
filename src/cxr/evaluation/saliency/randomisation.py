"""Do the saliency maps come from what the network learned, or would any network give them?

Adebayo J, Gilmer J, Muelly M, Goodfellow I, Hardt M, Kim B (2018), "Sanity Checks for Saliency Maps": the weights are
put back to a random start from the classifier down, step by step. A map that stays as it was shows the picture, not
the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from cxr.evaluation.saliency.grad_cam import signed_maps
from cxr.statistics.patient_mean import patient_mean
from cxr.training.backbones import create_backbone
from cxr.training.module import CXRModule

LIMIT = 0.5
"""The interval of the correlation must lie between -LIMIT and LIMIT: a convention of this program, not of the paper.
Maps of unrelated networks correlate somewhat, since both follow the picture."""


def randomisation_check(
    module: CXRModule,
    images: Tensor | NDArray[Any],
    groups: Sequence[str],
    class_name: str,
    *,
    num_draws: int = 3,
    seed: int = 0,
    batch_size: int = 8,
) -> dict[str, Any]:
    """How much the maps of the trained network resemble those of randomised ones.

    Args:
        module: left as it is.
        images, class_name, batch_size: see `cxr.evaluation.saliency.grad_cam.grad_cam`.
        groups: (N,) patient group.
        num_draws: random starts; an image counts with its mean over them.
        seed: of the random starts and the interval.

    Returns:
        ``cascade``: for the last layer, the upper half and all of the layers with weights, ``layers``, ``of`` and the
        rank ``correlation`` (see `patient_mean` and `rank_correlations`); ``correlation``: that of all layers;
        ``limit``; ``passed``: whether its interval keeps within ``LIMIT``, None without an interval; ``draws``;
        ``grid``: height and width of the maps at the resolution of the features, at which they are compared.
    """
    trained = signed_maps(module, images, class_name, batch_size=batch_size)
    num_layers = len(_layers(module.network))
    cascade: list[dict[str, Any]] = []
    for layers in sorted({1, (num_layers + 1) // 2, num_layers}):
        correlations = []
        for draw in range(num_draws):
            network = randomised_network(module, layers=layers, seed=seed + draw)
            maps = signed_maps(module, images, class_name, network=network, batch_size=batch_size)
            correlations.append(rank_correlations(trained, maps))
        estimate = patient_mean(np.mean(correlations, axis=0), groups, seed=seed)
        cascade.append({"layers": layers, "of": num_layers, "correlation": estimate})
    low, high = cascade[-1]["correlation"]["low"], cascade[-1]["correlation"]["high"]
    return {
        "cascade": cascade,
        "correlation": cascade[-1]["correlation"],
        "limit": LIMIT,
        "passed": None if high is None else bool(low > -LIMIT and high < LIMIT),
        "draws": num_draws,
        "grid": list(trained.shape[1:]),
    }


def rank_correlations(maps: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Spearman's correlation of the absolute maps, image by image, at the resolution of the features.

    Enlarging the maps would add pixels and no information. Absolute, because a random classifier takes evidence for a
    class as evidence against it half of the time.

    Args:
        maps, others: (N, h, w).

    Returns:
        (N,) -1 to 1; NaN where one of the two has the same value everywhere.
    """
    found = np.full(len(maps), np.nan)
    for place, (one, other) in enumerate(zip(np.abs(maps), np.abs(others), strict=True)):
        if np.ptp(one) > 0 and np.ptp(other) > 0:
            found[place] = stats.spearmanr(one.ravel(), other.ravel()).statistic
    return found


def randomised_network(module: CXRModule, *, layers: int, seed: int) -> nn.Module:
    """A network of its own: the upper layers as they start, the others as they were trained.

    Args:
        module: left as it is.
        layers: how many layers with weights lose what they learned, counted from the classifier.
        seed: of the random start; torch's own generator is left where it was.

    Returns:
        On the device of the module, in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        # Not the seed itself: a training that was given the same number has started from just these weights.
        torch.default_generator.manual_seed(int(np.random.SeedSequence((seed, 2018)).generate_state(1)[0]))
        network = create_backbone(
            module.hparams["backbone"],
            num_classes=len(module.class_names),
            image_size=module.hparams["image_size"],
            pretrained=False,
            head=module.hparams["head"],
            channels_last=module.hparams["channels_last"],
        ).network
    trained = module.network.state_dict()
    kept = [name for layer in _layers(module.network)[layers:] for name in layer]
    network.load_state_dict({name: trained[name] for name in kept}, strict=False)
    return network.to(module.device).eval()


def _layers(network: nn.Module) -> list[list[str]]:
    """The tensors of each module that has some of its own, from the classifier down."""
    layers = [list(names) for _, names in groupby(network.state_dict(), lambda name: name.rpartition(".")[0])]
    return layers[::-1]
