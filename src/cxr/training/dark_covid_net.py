"""What is DarkCovidNet?  The network of the paper, by the name ``darkcovidnet`` among those of timm."""

from __future__ import annotations

from typing import Any, cast

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.helpers import to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

# Channels and side of the kernel of each of the first 16 convolutions; None is a max pool of 2 x 2.
_LAYERS: tuple[tuple[int, int] | None, ...] = (
    (8, 3), None,
    (16, 3), None,
    (32, 3), (16, 1), (32, 3), None,
    (64, 3), (32, 1), (64, 3), None,
    (128, 3), (64, 1), (128, 3), None,
    (256, 3), (128, 1), (256, 3), (128, 1), (256, 3),
)  # fmt: skip


class DarkCovidNet(nn.Module):
    """Seventeen convolutions, each with batch norm and a leaky ReLU, and five max pools, after Darknet-19.

    Ozturk T, Talo M, Yildirim EA, Baloglu UB, Yildirim O and Acharya UR, "Automated detection of COVID-19 cases using
    deep neural networks with X-ray images", Computers in Biology and Medicine, 2020; Darknet-19: Redmon and Farhadi,
    "YOLO9000: Better, Faster, Stronger", 2017.

    Convolutions of one pixel have a margin of one pixel as those of three do, so that each makes the map two pixels
    wider: by the sizes in the table of the paper, 256 pixels become a map of 13 x 13. The last convolution has a
    channel for each class and is flattened into a linear layer, so that the network is made for one image size. With
    two classes and 256 pixels it has the 1,164,434 parameters of the paper.

    Args:
        num_classes: C; 0: no classifier, the features are the result.
        in_chans: channels of the image.
        img_size: side, or height and width, pixels.
        drop_rate: dropout before the linear layer; the paper has none.
    """

    def __init__(
        self, num_classes: int = 2, in_chans: int = 3, img_size: int | tuple[int, int] = 256, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, sides = in_chans, to_2tuple(img_size)
        for layer in _LAYERS:
            if layer is None:
                layers.append(nn.MaxPool2d(2))
                sides = tuple(side // 2 for side in sides)
            else:
                width, kernel_size = layer
                layers.append(_convolution(channels, width, kernel_size))
                channels, sides = width, tuple(side + 3 - kernel_size for side in sides)
        self.features = nn.Sequential(*layers)
        self.num_features = self.head_hidden_size = channels
        self.drop_rate = drop_rate
        self._num_places = sides[0] * sides[1]
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The last convolution and the linear layer: the first layers that depend on the classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Begin with another classifier; there is no global pooling to choose."""
        self.num_classes = num_classes
        self.head: nn.Module = nn.Identity()
        if num_classes > 0:
            self.head = nn.Sequential(
                _convolution(self.num_features, num_classes, 3),
                nn.Flatten(),
                nn.Dropout(self.drop_rate),
                nn.Linear(num_classes * self._num_places, num_classes),
            )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The blocks that timm divides the network into: each convolution is one."""
        return {"stem": r"^features\.0\.", "blocks": r"^features\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map (B, 256, h, w) of images (B, in_chans, H, W)."""
        return cast(Tensor, self.features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, C) of a map."""
        return x if pre_logits else cast(Tensor, self.head(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _convolution(num_in: int, num_out: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel_size, padding=1, bias=False),
        nn.BatchNorm2d(num_out),
        nn.LeakyReLU(0.1, inplace=True),
    )


default_cfgs = generate_default_cfgs(
    {
        "darkcovidnet.untrained": {
            "url": "",
            "input_size": (3, 256, 256),
            "fixed_input_size": True,
            "num_classes": 2,
            "pool_size": None,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "features.0.0",
            "classifier": "head",
        }
    }
)


@register_model
def darkcovidnet(pretrained: bool = False, **kwargs: Any) -> DarkCovidNet:
    """`DarkCovidNet`; nobody offers weights for it."""
    return build_model_with_cfg(DarkCovidNet, "darkcovidnet", pretrained, **kwargs)
