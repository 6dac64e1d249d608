"""How does a radiograph of any size and shape become a square of a fixed size?

``crop`` scales the short side to the square and keeps the centre; ``pad`` scales the long side to it and fills with
black. Both keep the aspect ratio and the centre exactly, both are antialiased: each new pixel is the mean of the old
ones under a triangle that is as wide as the scaling asks for (Pillow's bilinear filter). Smaller images are enlarged.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr.errors import ConfigurationError

Aspect = Literal["crop", "pad"]
MAX_SIZE = 4096


@dataclass(frozen=True)
class Preparation:
    """What is done to every image before it is stored, trained on or served.

    Args:
        size: side of the square in pixels, 1 to ``MAX_SIZE``.
        aspect: ``crop`` or ``pad``.

    Raises:
        ConfigurationError: a size out of range or an unknown aspect.
    """

    size: int
    aspect: Aspect = "crop"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 1 <= self.size <= MAX_SIZE:
            raise ConfigurationError(f"image_size: {self.size!r} is not a whole number from 1 to {MAX_SIZE}")
        known = get_args(Aspect)
        if self.aspect not in known:
            nearest = difflib.get_close_matches(str(self.aspect), known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"choose {' or '.join(known)}"
            raise ConfigurationError(f"aspect: {self.aspect!r} is not known; {hint}")

    def as_dict(self) -> dict[str, int | str]:
        """Plain values from which ``Preparation(**values)`` makes the same preparation again."""
        return asdict(self)

    def apply(self, grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring one image to the square.

        Args:
            grey: uint8 (height, width), both at least 1.

        Returns:
            uint8 (size, size).
        """
        height, width = grey.shape
        image = Image.fromarray(grey)
        if self.aspect == "crop" or width == height:
            side = min(width, height)
            return _resized_centre(image, side, side, self.size, self.size)

        # Only whole new pixels are filled, and as many as leave equal black borders: rounding the short side instead
        # would stretch the picture or shift it. At most one pixel's worth of its edge is lost on either side.
        long, short = max(width, height), min(width, height)
        filled = short * self.size // long
        filled -= (self.size - filled) % 2
        filled = filled if filled > 0 else min(self.size, 2 - self.size % 2)  # a sliver: shown, though too thick
        covered = min(float(short), filled * long / self.size)
        square = np.zeros((self.size, self.size), np.uint8)
        start = (self.size - filled) // 2
        if height < width:
            square[start : start + filled] = _resized_centre(image, width, covered, self.size, filled)
        else:
            square[:, start : start + filled] = _resized_centre(image, covered, height, filled, self.size)
        return square


def _resized_centre(
    image: Image.Image, width: float, height: float, new_width: int, new_height: int
) -> NDArray[np.uint8]:
    left, top = (image.width - width) / 2, (image.height - height) / 2
    # The box is cut out while resizing, so that a very long image never exists at the scale of its short side.
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR, box=box))
