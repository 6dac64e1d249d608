"""What stands between the last map of features and the logits, where it is not the backbone's own classifier?"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from cxr.errors import ConfigurationError

HEADS: Final = ("linear", "concat_pool")


class ConcatPoolHead(nn.Module):
    """The head of fastai (Howard and Gugger, "fastai: A Layered API for Deep Learning", 2020).

    Greatest and mean value of each channel side by side, batch norm, dropout, a hidden layer, and again batch norm and
    dropout before the classifier. A small finding can move the greatest value while it leaves the mean as it is.

    Args:
        num_features: channels of the map.
        num_classes: C.
        hidden: width of the hidden layer.
        drop_rates: dropout before the hidden layer and before the classifier.
    """

    def __init__(
        self, num_features: int, num_classes: int, *, hidden: int = 512, drop_rates: tuple[float, float] = (0.25, 0.5)
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(2 * num_features),
            nn.Dropout(drop_rates[0]),
            nn.Linear(2 * num_features, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(hidden),
            nn.Dropout(drop_rates[1]),
            nn.Linear(hidden, num_classes),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of a map (B, num_features, h, w)."""
        # Not torch's adaptive pooling, whose gradient on a GPU has no deterministic form.
        pooled = torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1)
        return cast(Tensor, self.layers(pooled))


def put_concat_pool_head(network: Any, *, name: str, classifier: Any, num_classes: int, image_size: int) -> None:
    """Give a timm network a `ConcatPoolHead` in place of its pooling and classifier.

    The head takes the classifier's name, so that ``forward_head``, ``get_classifier`` and the names in a file of
    weights go on meaning what they mean in every timm network.

    Args:
        network: changed in place.
        name: the network, as the user calls it.
        classifier: name of the classifier module, of timm's configuration.
        num_classes: C.
        image_size: pixels of a side.

    Raises:
        ConfigurationError: the network has no map of features before its classifier.
    """
    refusal = ConfigurationError(
        f"model.head=concat_pool: {name} is no convolutional network with one map of features before its classifier; "
        "use model.head=linear"
    )
    if not isinstance(classifier, str):
        raise refusal
    try:
        network.reset_classifier(0, "")
        with torch.no_grad():
            features = network.eval()(torch.zeros(1, 3, image_size, image_size))
        network.train()
    except Exception as error:  # whatever a network of another kind makes of it
        raise refusal from error
    if features.ndim != 4 or getattr(network, "output_fmt", "NCHW") != "NCHW":
        raise refusal
    network.set_submodule(classifier, ConcatPoolHead(features.shape[1], num_classes))
    network.num_classes = num_classes
