"""What does a plain drawing of a chest radiograph look like?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Part of the name of every folder of drawings: raise it whenever a pixel changes.
DRAWING_VERSION: Final = 1

Look = Literal["a", "b"]
Corner = Literal["upper", "lower"]
Field = NDArray[np.floating[Any]]  # float32 throughout: half the memory to move

# The shadows are drawn at this many lines and then enlarged to the film: the cost hardly grows with the size, and the
# arrays stay below the 128 KiB from which glibc maps and unmaps every temporary.
_LINES: Final = 176

# Coordinates: half the height of the picture is 1, the origin is its middle, x grows to the picture's right (the
# patient's left), y grows downwards. Grey levels run from 0 (air) to 1 (bone) until the film is exposed.
_MARKER = np.array(
    [[1, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]], dtype=np.float32
)


@dataclass(frozen=True)
class Opacity:
    """A soft bright patch in a lung: its middle, its radii (in the coordinates above) and its brightness (0 to 1)."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    amplitude: float


@dataclass(frozen=True)
class Anatomy:
    """What all pictures of a patient share, in the coordinates above; pairs are (picture's left, picture's right)."""

    half_width: float
    apex: float
    domes: tuple[float, float]
    dome_depth: float
    scoliosis: float
    mediastinum: float
    heart_x: float
    heart_radius: float
    rib_spacing: float
    rib_phase: float
    rib_brightness: float
    clavicle_height: float
    clavicle_slope: float
    shoulder: float
    breast: float
    gastric_bubble: float
    vessels_seed: int

    @classmethod
    def sample(cls, rng: np.random.Generator, sex: str) -> Anatomy:
        """Draws a patient; ``sex`` ('M' or 'F') decides on the breast shadows and a little on the width."""
        female = sex == "F"
        right_dome = rng.normal(0.50, 0.045)
        return cls(
            half_width=rng.normal(0.77 if female else 0.81, 0.03),
            apex=rng.normal(-0.86, 0.025),
            domes=(right_dome, right_dome + rng.uniform(0.02, 0.09)),
            dome_depth=rng.uniform(0.14, 0.24),
            scoliosis=rng.normal(0.0, 0.02),
            mediastinum=rng.normal(0.125, 0.012),
            heart_x=rng.normal(0.14, 0.02),
            heart_radius=rng.normal(0.37, 0.03),
            rib_spacing=rng.normal(0.165, 0.010),
            rib_phase=rng.uniform(0.0, 1.0),
            rib_brightness=rng.uniform(0.13, 0.20),
            clavicle_height=rng.normal(-0.64, 0.03),
            clavicle_slope=rng.uniform(0.08, 0.24),
            shoulder=rng.normal(0.0, 0.03),
            breast=rng.uniform(0.05, 0.15) if female else rng.uniform(0.0, 0.02),
            gastric_bubble=rng.uniform(0.0, 0.4),
            vessels_seed=int(rng.integers(2**31)),
        )


def lung_point(anatomy: Anatomy, side: int, across: float, down: float) -> tuple[float, float]:
    """A point of a lung in the coordinates of the drawing.

    Args:
        side: -1 for the lung on the picture's left, 1 for that on its right.
        across: 0 at the mediastinum, 1 at the chest wall.
        down: 0 at the apex, 1 at the diaphragm.
    """
    y = anatomy.apex + down * (anatomy.domes[(side + 1) // 2] - anatomy.apex)
    inner = anatomy.mediastinum
    outer = anatomy.half_width * (1.0 - max(0.0, 1.0 - down / 0.8) ** 2) ** 0.5
    return side * (inner + across * (outer - inner)), y


def draw(
    anatomy: Anatomy,
    opacities: list[Opacity],
    *,
    view: str,
    look: Look,
    corner: Corner,
    size: int,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Draws one radiograph of a patient.

    Args:
        anatomy: what the pictures of the patient share.
        opacities: the bright patches in the lungs.
        view: 'PA' or 'AP'; AP enlarges the heart and raises the diaphragm, as lying patients and short distances do.
        look: 'a' a square digital film; 'b' a smaller, softer, taller film with hard contrast and a dark border.
        corner: where the 'R' of the marker stands on the picture's left. Up or down, not left or right: so a
            horizontal flip does not take its meaning away.
        size: longer side in pixels.
        rng: pose, exposure and noise of this picture.

    Returns:
        uint8 of shape (height, width); (size, size) for look 'a', (0.8 size, 0.69 size) for look 'b'.
    """
    height = size if look == "a" else round(0.8 * size)
    width = size if look == "a" else round(0.69 * size)
    shadows = _shadows(anatomy, opacities, view == "AP", width / height, rng)
    film = Image.fromarray(shadows).resize((width, height), Image.Resampling.BICUBIC)
    pixels = _expose(np.asarray(film), look, rng)
    _stamp_marker(pixels, corner, rng.uniform(0.03, 0.05), look)
    return pixels


def _shadows(anatomy: Anatomy, opacities: list[Opacity], lying: bool, aspect: float, rng: np.random.Generator) -> Field:
    """The shadows of one picture before the film is exposed: grey levels of shape (_LINES, _LINES * aspect)."""
    x, y = _posed_grid(round(_LINES * aspect), rng)
    breath = rng.normal(0.0, 0.02) - (0.06 if lying else 0.0)
    x = x - anatomy.scoliosis * (y * y - 0.3)
    t = np.abs(x)
    domes = np.array(anatomy.domes, dtype=np.float32) + np.float32(breath)
    floor = domes[(x > 0).astype(np.intp)]
    dome = floor + anatomy.dome_depth * np.square((t - 0.36) * 2.5)

    # The outline of the body: neck, shoulders, trunk.
    shoulder_line = anatomy.shoulder - 0.98 + 0.42 * np.square(np.maximum(t - 0.20, 0.0))
    body = np.maximum(_ramp(y - shoulder_line, 0.06), _ramp(0.23 - t, 0.04))
    body *= _ramp(1.10 + anatomy.shoulder - 0.08 * y - t, 0.08)
    grey: Field = body * (0.66 - 0.16 * np.square(np.minimum(t, 1.2)))

    lung, depth, wall = _lungs(anatomy, t, y, floor, dome)
    heart = _heart(anatomy, x, y, float(domes[1]), 1.12 if lying else 1.0)
    grey += lung * (0.16 + 0.08 * depth + 0.10 * np.square(t / anatomy.half_width) - grey)
    grey += _ramp(y - dome, 0.03) * wall * body * (0.74 - grey)
    soft = _Soft(x, y)
    grey -= soft.gastric_bubble(anatomy, domes[1])
    grey = _over(grey, lung * soft.vessels(anatomy, depth))
    grey = _over(grey, body * soft.breasts(anatomy))
    grey = _over(grey, lung * soft.opacities(opacities, rng))
    grey += heart * (0.76 - grey)
    grey = _over(grey, body * _bones(anatomy, x, y, t, wall, heart, lying))
    grey -= 0.13 * body * _ramp(0.045 - np.abs(x - 0.01), 0.04) * _ramp(-0.22 - y, 0.12)  # the trachea is air
    grey += 0.012 * body * soft.noise(rng, 24)
    return grey


def _posed_grid(columns: int, rng: np.random.Generator) -> tuple[Field, Field]:
    """Coordinates of the pixels in the patient: a little shifted, turned and scaled from picture to picture."""
    step = np.float32(2.0 / _LINES)
    down = (np.arange(_LINES, dtype=np.float32)[:, None] - np.float32((_LINES - 1) / 2)) * step
    right = (np.arange(columns, dtype=np.float32)[None, :] - np.float32((columns - 1) / 2)) * step
    angle, zoom = rng.normal(0.0, 0.025), rng.normal(1.0, 0.03)
    shift_x, shift_y = np.float32(rng.normal(0.0, 0.025)), np.float32(rng.normal(0.0, 0.025))
    # A picture narrower than high would cut the lungs: the patient stands further away instead.
    zoom *= max(1.0, 0.96 * _LINES / columns)
    cos, sin = np.float32(np.cos(angle) * zoom), np.float32(np.sin(angle) * zoom)
    return cos * right + sin * down + shift_x, cos * down - sin * right + shift_y


def _ramp(distance: Field, width: float) -> Field:
    """0 outside, 1 inside, straight between: a soft edge ``width`` wide where ``distance`` changes its sign."""
    edge: Field = np.clip(distance * np.float32(1.0 / width) + np.float32(0.5), 0.0, 1.0)
    return edge


def _over(grey: Field, attenuation: Field) -> Field:
    """Attenuation laid over a grey level: bright places gain less, as on a film."""
    return grey + (1.0 - grey) * attenuation


def _lungs(anatomy: Anatomy, t: Field, y: Field, floor: Field, dome: Field) -> tuple[Field, Field, Field]:
    """The lung fields, how far down them a pixel lies (0 apex, 1 diaphragm), and all within the chest wall."""
    depth = np.clip((y - np.float32(anatomy.apex)) / (floor - np.float32(anatomy.apex)), 0.0, 1.2)
    outer = anatomy.half_width * np.sqrt(1.0 - np.square(np.maximum(1.0 - depth / 0.8, 0.0)))
    above = np.square(np.square(1.0 - np.minimum(depth, 1.0)))
    inner = anatomy.mediastinum + 0.2 * above * above
    lung = _ramp(outer - t, 0.030) * _ramp(t - inner, 0.030) * _ramp(dome - y, 0.025) * _ramp(y - anatomy.apex, 0.03)
    return lung, depth, _ramp(outer + 0.03 - t, 0.05)


def _heart(anatomy: Anatomy, x: Field, y: Field, floor: float, enlarged: float) -> Field:
    """The mediastinum, the aortic knob and the heart, whose tip points down to the picture's right."""
    radius = anatomy.heart_radius * enlarged
    column = _ramp(anatomy.mediastinum + 0.05 * np.square(np.clip(-y - 0.1, 0.0, 1.0)) - np.abs(x), 0.06)
    dx, dy = x - np.float32(anatomy.heart_x), y - np.float32(floor - 0.19)
    along, across = 0.84 * dx + 0.54 * dy, 0.84 * dy - 0.54 * dx
    ventricle = _ramp(1.0 - np.square(along / (1.08 * radius)) - np.square(across / (0.80 * radius)), 0.2)
    atrium = _ramp(1.0 - np.square((x + 0.05) / (0.56 * radius)) - np.square((dy + 0.05) / 0.30), 0.3)
    knob = _ramp(1.0 - (np.square(x - 0.10) + np.square(y + 0.30)) / 0.0081, 0.6)
    joined: Field = np.maximum(np.maximum(column, ventricle), np.maximum(atrium, 0.85 * knob))
    return joined


def _bones(anatomy: Anatomy, x: Field, y: Field, t: Field, wall: Field, heart: Field, lying: bool) -> Field:
    """Ribs before and behind the lungs, clavicles, spine and shoulder blades."""
    # A rib is dense at its two edges and thinner between them: one period of the pattern, looked up by phase.
    phase = np.linspace(-0.5, 0.5, 256, endpoint=False)
    profile = np.clip((0.22 - np.abs(phase)) / 0.05, 0.0, 1.0) * (0.65 + 1.6 * np.abs(phase))
    table = profile.astype(np.float32)

    def ribs(height: Field, spacing: float) -> Field:
        periods = height / np.float32(spacing) + np.float32(anatomy.rib_phase)
        pattern: Field = table[(periods * np.float32(256)).astype(np.int32) & 255]
        return pattern

    behind = ribs(y + 0.10 * t - 0.50 * t * t * t + np.float32(0.06) * t * y, anatomy.rib_spacing)
    before = ribs(y + 0.72 * t - 0.55 * t * t, 1.12 * anatomy.rib_spacing)
    before = before * _ramp(t - 0.30, 0.25) * _ramp(y + 0.55, 0.2)
    within = wall * _ramp(t - 0.10, 0.06) * (1.0 - 0.70 * heart) * _ramp(0.75 - y, 0.5) * _ramp(y + 0.83, 0.10)
    bones = anatomy.rib_brightness * within * (behind + 0.55 * before)

    lift = -0.05 if lying else 0.0
    middle = anatomy.clavicle_height + lift - anatomy.clavicle_slope * t + 0.05 * np.sin(t * 6.0)
    clavicle = _ramp(0.034 - np.abs(y - middle), 0.025) * _ramp(t - 0.09, 0.06) * _ramp(0.90 - t, 0.1)
    # In a PA film the shoulders roll forwards and clear the lungs of the shoulder blades.
    blade_x = 0.74 if lying else 0.84
    blade = _ramp(0.13 - np.abs(t - blade_x - 0.12 * y), 0.05) * _ramp(0.30 - np.abs(y + 0.38), 0.15)
    vertebra = 0.75 + 0.25 * np.cos(y * np.float32(2 * np.pi / (0.9 * anatomy.rib_spacing)))
    spine = _ramp(0.085 - np.abs(x), 0.05) * vertebra
    joined: Field = bones + 0.30 * clavicle + 0.13 * blade + 0.16 * spine
    return joined


class _Soft:
    """Shadows without edges, computed on every third pixel and enlarged: nobody sees a difference."""

    def __init__(self, x: Field, y: Field) -> None:
        self.size = (x.shape[1], x.shape[0])
        self.x, self.y = x[1::3, 1::3], y[1::3, 1::3]
        self.t = np.abs(self.x)

    def _enlarge(self, small: Field) -> Field:
        return np.asarray(Image.fromarray(small).resize(self.size, Image.Resampling.BICUBIC))

    def noise(self, rng: np.random.Generator, cells: int) -> Field:
        """Smooth, roughly standard normal noise with ``cells`` cells from edge to edge."""
        return self._enlarge(rng.standard_normal((cells, cells), dtype=np.float32))

    def vessels(self, anatomy: Anatomy, depth: Field) -> Field:
        """Hilar shadows, the vessels that fan out of them, and markings: the same in each picture of a patient."""
        rng = np.random.default_rng(anatomy.vessels_seed)
        dx, dy = self.t - np.float32(0.15), self.y + np.float32(0.02)
        distance = np.sqrt(dx * dx + dy * dy)
        spokes = np.maximum(rng.standard_normal((2, 96)), 0.0).astype(np.float32)
        turn = np.arctan2(dy, dx) + 0.3 * np.sin(7.0 * distance)
        spoke = (turn * np.float32(48 / np.pi)).astype(np.intp) % 96
        fan = spokes[(self.x > 0).astype(np.intp), spoke] * np.clip(0.9 - distance / 0.62, 0.0, 0.65)
        hilum = np.exp(-(np.square(dx / 0.08) + np.square(dy / 0.17)))
        markings: Field = 0.035 * self.noise(rng, 44) * np.minimum(1.5 * depth, 1.0)
        return self._enlarge(0.16 * fan + 0.30 * hilum) + markings

    def breasts(self, anatomy: Anatomy) -> Field:
        dx, dy = self.t - np.float32(0.46), self.y - np.float32(0.30)
        outline = _ramp(1.0 - np.square(dx / 0.36) - np.square(dy / (0.26 + anatomy.breast)), 0.5)
        return self._enlarge(anatomy.breast * outline)

    def gastric_bubble(self, anatomy: Anatomy, floor: float) -> Field:
        square = np.square((self.x - 0.42) / 0.20) + np.square((self.y - floor - 0.18) / 0.09)
        return self._enlarge(anatomy.gastric_bubble * np.exp(-square * square))

    def opacities(self, opacities: list[Opacity], rng: np.random.Generator) -> Field:
        """The patches together, cloudy rather than smooth."""
        total = np.zeros_like(self.x)
        for spot in opacities:
            square = np.square((self.x - spot.x) / spot.radius_x) + np.square((self.y - spot.y) / spot.radius_y)
            total += np.float32(spot.amplitude) * np.exp(-square)
        # Patches that meet saturate: a lung cannot become denser than the soft tissue around it.
        total = 1.0 - np.exp(-total)
        clouds: Field = np.clip(1.0 + 0.3 * self.noise(rng, 30), 0.3, 1.7)
        return self._enlarge(total) * clouds


def _expose(grey: Field, look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The film: automatic exposure, noise, contrast curve and border.

    Mean and contrast are drawn for each picture whatever it shows, as automatic exposure sets them; so the
    brightness of a whole picture says nothing of its label.
    """
    mean, contrast = rng.normal(0.47, 0.045), rng.normal(0.235, 0.012)
    film = (grey - np.float32(grey.mean())) * np.float32(contrast / max(float(grey.std()), 1e-6)) + np.float32(mean)
    noise = rng.standard_normal(grey.shape, dtype=np.float32)
    film = film + noise * np.float32(rng.uniform(0.012, 0.022))
    if look == "b":
        film[:, 1:-1] = (film[:, :-2] + film[:, 1:-1] + film[:, 2:]) / 3.0
        film[1:-1] = (film[:-2] + film[1:-1] + film[2:]) / 3.0
        film = np.clip(film, 0.0, 1.0)
        film = film * film * (3.0 - 2.0 * film)  # an S-shaped curve: hard film
        border = max(1, round(0.025 * grey.shape[0]))
        film[:border], film[-border:], film[:, :border], film[:, -border:] = 0.02, 0.02, 0.02, 0.02
    pixels: NDArray[np.uint8] = (np.clip(film, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
    return pixels


def _stamp_marker(pixels: NDArray[np.uint8], corner: Corner, inset: float, look: Look) -> None:
    """Writes an 'R' on a dark tag; the tag makes it as plain over the flank as over air."""
    height, width = pixels.shape
    tag_height = max(7, round(0.10 * height))
    tag_width = max(5, round(0.075 * height))
    top = round(inset * height) if corner == "upper" else height - tag_height - round(inset * height)
    left = round((inset if look == "a" else inset + 0.03) * width)
    tag = Image.new("L", (tag_width, tag_height), 18)
    margin = max(1, round(0.15 * tag_height))
    letter = Image.fromarray((_MARKER * 235 + 18).astype(np.uint8))
    inside = (max(3, tag_width - 2 * margin), max(5, tag_height - 2 * margin))
    tag.paste(letter.resize(inside, Image.Resampling.BILINEAR), ((tag_width - inside[0]) // 2, margin))
    pixels[top : top + tag_height, left : left + tag_width] = np.asarray(tag)
