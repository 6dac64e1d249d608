"""Which drawn patients stand in for real ones, and what is known of them?"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from filelock import FileLock
from PIL import Image
from rich.console import Console
from rich.progress import track

from cxr.errors import ConfigurationError, DataError
from cxr.sources.manifest import Collection, make_dropped, make_records
from cxr.sources.phantom_drawing import DRAWING_VERSION, Anatomy, Corner, Look, Opacity, draw, lung_point

POSITIVE_FINDING: Final = "COVID-19"
_MAX_IMAGES: Final = 4
# Roughly where public collections come from; drawn without a look at the finding, like sex, age and view.
_COUNTRIES: Final = ("Italy", "Spain", "China", "Iran", "Germany", "Brazil", "United States")


def read(
    name: str,
    *,
    cache_dir: str | Path,
    num_patients: int = 200,
    images_per_patient: float = 2.0,
    prevalence: float = 0.3,
    strength: float = 1.0,
    look: Literal["a", "b"] = "a",
    marker: float = 0.0,
    size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> Collection:
    """Draws a collection of chest radiographs, or reuses the one that stands in the cache.

    COVID-19 shows as soft patches in both lungs, towards the wall and the base; the other patients have nothing or
    one patch. Exposure, view, sex, age and country are independent of the finding. The same settings give the same
    files, and a larger ``num_patients`` only adds patients.

    Args:
        name: name of the source entry.
        cache_dir: the drawings go to ``<cache_dir>/phantom-<key>/``, as grey 8-bit PNG.
        num_patients: 1 to 100000.
        images_per_patient: mean number of images of a patient, 1 to 4; each has 1 to 4.
        prevalence: share of patients with COVID-19, 0 to 1; met to within one patient.
        strength: brightness of every patch, 0 (nothing to see) to 3; 1 is an easy task.
        look: 'a' or 'b': two collections from two scanners; their patients are different people.
        marker: the planted shortcut, 0 to 1. Every image carries a tag in an upper or a lower corner; upper goes
            with COVID-19, and it does so with probability (1 + marker) / 2.
        size: longer side in pixels, 64 to 2048; look 'b' is a fifth smaller.
        seed: 0 or more.
        progress: shows a bar on a terminal.

    Raises:
        ConfigurationError: a setting out of its range.
        DataError: the cache folder cannot be written.
    """
    _check(name, "num_patients", num_patients, 1, 100_000, whole=True)
    _check(name, "images_per_patient", images_per_patient, 1, _MAX_IMAGES)
    _check(name, "prevalence", prevalence, 0, 1)
    _check(name, "strength", strength, 0, 3)
    _check(name, "marker", marker, 0, 1)
    _check(name, "size", size, 64, 2048, whole=True)
    _check(name, "seed", seed, 0, 2**63 - 1, whole=True)
    if look not in ("a", "b"):
        raise ConfigurationError(f"source {name!r}: look={look!r} is not known; say 'a' or 'b'")

    # Not num_patients: the first patients of a larger collection are the smaller collection.
    drawn_by = [float(images_per_patient), float(prevalence), float(strength), look, float(marker), size, seed]
    key = hashlib.sha256(json.dumps([DRAWING_VERSION, *drawn_by]).encode()).hexdigest()[:12]
    folder = Path(cache_dir).absolute() / f"phantom-{key}"
    patients = [_sample_patient(n, images_per_patient, prevalence, look, seed) for n in range(num_patients)]
    pictures = [_sample_picture(p, n, marker, look, seed) for p in patients for n in range(p.num_images)]

    def draw_picture(picture: _Picture) -> None:
        _write_png(folder / picture.file, _draw_picture(picture, strength, look, size, seed))

    try:
        _draw_missing(pictures, folder, draw_picture, progress)
    except OSError as error:
        raise DataError(f"source {name!r}: cannot write the drawings to {folder}: {error.strerror or error}") from error
    return _collection(name, pictures, folder)


@dataclass(frozen=True)
class _Patient:
    number: int
    name: str
    finding: str
    sex: str
    age: float
    country: str
    num_images: int
    anatomy: Anatomy
    opacities: tuple[Opacity, ...]


@dataclass(frozen=True)
class _Picture:
    patient: _Patient
    number: int
    file: str
    view: str
    corner: Corner


def _check(name: str, key: str, value: float, low: float, high: float, whole: bool = False) -> None:
    kind = "a whole number" if whole else "a number"
    right_type = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right_type or not low <= value <= high:
        raise ConfigurationError(f"source {name!r}: {key}={value!r} is not {kind} from {low} to {high}")


def _generator(seed: int, *key: int) -> np.random.Generator:
    """One generator per purpose, patient and picture: no draw depends on how many others there are."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _sample_patient(number: int, images_per_patient: float, prevalence: float, look: Look, seed: int) -> _Patient:
    # Positives are spread evenly over the numbers from a random start, so that any first n patients hold
    # prevalence * n of them; a coin for each would leave small collections without a class.
    collection = "ab".index(look)
    start = _generator(seed, collection, 0).uniform()
    positive = math.floor((number + 1) * prevalence + start) > math.floor(number * prevalence + start)
    rng = _generator(seed, collection, 1, number)
    sex = "F" if rng.uniform() < 0.42 else "M"
    age = float(np.clip(np.rint(rng.normal(54.0, 16.0)), 18, 94))
    country = _COUNTRIES[int(rng.integers(len(_COUNTRIES)))]
    num_images = 1 + int(rng.binomial(_MAX_IMAGES - 1, (images_per_patient - 1) / (_MAX_IMAGES - 1)))
    anatomy = Anatomy.sample(rng, sex)
    if positive:
        finding, opacities = POSITIVE_FINDING, _bilateral(anatomy, rng)
    else:
        finding = str(rng.choice(["No Finding", "Pneumonia/Bacterial", "Tuberculosis"], p=[0.45, 0.40, 0.15]))
        opacities = [] if finding == "No Finding" else [_focal(anatomy, rng, upper=finding == "Tuberculosis")]
    name = f"{look.upper()}{number:05d}"
    return _Patient(number, name, finding, sex, age, country, num_images, anatomy, tuple(opacities))


def _bilateral(anatomy: Anatomy, rng: np.random.Generator) -> list[Opacity]:
    """Two to four patches in each lung, near the wall and the base."""
    severity = rng.uniform(0.75, 1.25)
    opacities = []
    for side in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            x, y = lung_point(anatomy, side, rng.uniform(0.55, 0.95), rng.uniform(0.48, 0.95))
            radius_x, radius_y = rng.uniform(0.08, 0.15), rng.uniform(0.09, 0.18)
            opacities.append(Opacity(x, y, radius_x, radius_y, severity * rng.uniform(0.28, 0.48)))
    return opacities


def _focal(anatomy: Anatomy, rng: np.random.Generator, upper: bool) -> Opacity:
    """One denser patch in one lung, anywhere from the middle to the base, or near the apex."""
    side = -1 if rng.uniform() < 0.5 else 1
    down = rng.uniform(0.18, 0.34) if upper else rng.uniform(0.40, 0.92)
    x, y = lung_point(anatomy, side, rng.uniform(0.25, 0.85), down)
    return Opacity(x, y, rng.uniform(0.11, 0.18), rng.uniform(0.11, 0.20), rng.uniform(0.45, 0.75))


def _sample_picture(patient: _Patient, number: int, marker: float, look: Look, seed: int) -> _Picture:
    chance_view, chance_corner = _generator(seed, "ab".index(look), 2, patient.number, number).uniform(size=2)
    positive = patient.finding == POSITIVE_FINDING
    agrees = chance_corner < (1.0 + marker) / 2.0
    corner: Corner = "upper" if positive == agrees else "lower"
    return _Picture(patient, number, f"{patient.name}-{number + 1}.png", "PA" if chance_view < 0.6 else "AP", corner)


def _draw_picture(picture: _Picture, strength: float, look: Look, size: int, seed: int) -> Image.Image:
    rng = _generator(seed, "ab".index(look), 3, picture.patient.number, picture.number)
    opacities = [
        replace(
            spot,
            x=spot.x + rng.normal(0.0, 0.015),
            y=spot.y + rng.normal(0.0, 0.015),
            amplitude=strength * spot.amplitude * rng.uniform(0.85, 1.15),
        )
        for spot in picture.patient.opacities
    ]
    anatomy = picture.patient.anatomy
    pixels = draw(anatomy, opacities, view=picture.view, look=look, corner=picture.corner, size=size, rng=rng)
    return Image.fromarray(pixels)


def _draw_missing(
    pictures: Sequence[_Picture], folder: Path, draw_picture: Callable[[_Picture], None], progress: bool
) -> None:
    """Draws what the folder lacks, one process at a time; an interrupted drawing goes on where it ended."""
    if not _missing(pictures, folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")), ThreadPoolExecutor(os.cpu_count()) as pool:
        missing = _missing(pictures, folder)
        done = track(
            pool.map(draw_picture, missing),
            "Drawing phantoms",
            total=len(missing),
            console=console,
            disable=not (progress and console.is_terminal),
        )
        for _ in done:
            pass


def _missing(pictures: Sequence[_Picture], folder: Path) -> list[_Picture]:
    if not folder.is_dir():
        return list(pictures)
    # An empty file is what a power cut can leave of an atomic rename. Hidden files may vanish meanwhile: another
    # process is drawing.
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if not entry.name.startswith(".")}
    return [picture for picture in pictures if sizes.get(picture.file, 0) == 0]


def _write_png(path: Path, image: Image.Image) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _collection(name: str, pictures: Sequence[_Picture], folder: Path) -> Collection:
    rows = [
        {
            "source": name,
            "image": picture.file,
            "path": str(folder / picture.file),
            "finding": picture.patient.finding,
            "patient": picture.patient.name,
            "view": picture.view,
            "sex": picture.patient.sex,
            "age": picture.patient.age,
            "country": picture.patient.country,
        }
        for picture in pictures
    ]
    return Collection(name, make_records(rows), make_dropped([]), len(rows))
