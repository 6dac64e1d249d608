from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.images.decode import read_grey
from cxr.images.lung_masks import FOLDER, find_lung_masks, prepare_lung_masks
from cxr.images.prepare import Preparation


def lungs(height: int, width: int) -> np.ndarray:
    """Two unlike lungs, so that no turning or mirroring goes unseen."""
    drawn = np.zeros((height, width), np.uint8)
    drawn[height // 5 : height * 4 // 5, width // 6 : width * 2 // 5] = 255
    drawn[height // 3 : height // 2, width * 3 // 5 : width * 9 // 10] = 255
    return drawn


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def records(root: Path, *names: str) -> pd.DataFrame:
    images = [f"images/{name}" for name in names]
    return pd.DataFrame({"image": images, "path": [str(root / image) for image in images]})


@pytest.mark.parametrize("aspect", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(301, 170), (170, 301), (90, 90)])
def test_masks_lie_on_their_images(aspect: str, shape: tuple[int, int], tmp_path: Path) -> None:
    # The radiograph is the drawing of its own lungs, so that the prepared image says where they must be.
    image = save(tmp_path / "images" / "x.png", lungs(*shape))
    save(tmp_path / FOLDER / "x_mask.png", lungs(*shape))
    preparation = Preparation(96, aspect)  # type: ignore[arg-type]
    files = find_lung_masks(records(tmp_path, "x.png"))
    masks = prepare_lung_masks(files, np.array([0]), preparation)
    prepared = preparation.apply(read_grey(image))
    assert masks.rows.tolist() == [0]
    assert 0.05 < masks.inside.mean() < 0.5
    np.testing.assert_array_equal(masks.inside[0], prepared >= 128)


def test_crop_cuts_the_mask_where_geometry_says(tmp_path: Path) -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[20:60, 60:90] = 255
    save(tmp_path / "images" / "x.jpg", np.zeros((100, 200), np.uint8))
    save(tmp_path / FOLDER / "x_mask.png", mask)
    files = find_lung_masks(records(tmp_path, "x.jpg"))
    inside = prepare_lung_masks(files, np.array([0]), Preparation(50, "crop")).inside[0]
    expected = np.zeros((50, 50), bool)
    expected[10:30, 5:20] = True  # columns 50 to 150 stay, at half the size
    np.testing.assert_array_equal(inside, expected)


def test_every_mask_file_is_accounted_for(tmp_path: Path) -> None:
    drawn = lungs(40, 30)
    for name in ("a.png", "b.png", "size.png", "twin.png", "twin.jpg", "turned.jpg", "broken.png"):
        save(tmp_path / "images" / name, drawn)
    exif = Image.Exif()
    exif[274] = 3
    save(tmp_path / "images" / "turned.jpg", drawn, exif=exif)
    folder = tmp_path / FOLDER
    for stem in ("a_mask.png", "a_mask", "b_mask.png", "twin_mask", "turned_mask", "elsewhere_mask", "notes"):
        save(folder / f"{stem}.png", drawn)
    save(folder / "size_mask.png", lungs(41, 30))
    (folder / "broken_mask.png").write_bytes(b"nothing")
    (folder / "README.md").write_text("not a mask")

    names = ["a.png", "b.png", "size.png", "twin.png", "twin.jpg", "turned.jpg", "broken.png"]
    files = find_lung_masks(records(tmp_path, *names))
    # Two spellings of one name are the only case in which a suffix may stand twice.
    assert {row: path.name for row, path in files.path_of.items()} == {0: "a_mask.png", 1: "b_mask.png.png"}
    assert files.left_out == {
        "second mask of an image": 1,
        "of several images": 1,
        "image turned by its EXIF orientation": 1,
        "of no image here": 1,
        "not named as a mask": 1,
        "another size than its image": 1,
        "unreadable": 1,
    }
    assert files.num_files == 9 == len(files.path_of) + sum(files.left_out.values())


def test_masks_that_show_no_lung_or_no_picture_are_left_out(tmp_path: Path) -> None:
    drawn = lungs(40, 30)
    for name in ("black", "cut", "good"):
        save(tmp_path / "images" / f"{name}.png", drawn)
    save(tmp_path / FOLDER / "black_mask.png", np.zeros((40, 30), np.uint8))
    save(tmp_path / FOLDER / "good_mask.png", drawn)
    whole = save(tmp_path / FOLDER / "cut_mask.png", drawn).read_bytes()
    (tmp_path / FOLDER / "cut_mask.png").write_bytes(whole[: len(whole) * 2 // 3])
    files = find_lung_masks(records(tmp_path, "black.png", "cut.png", "good.png"))
    masks = prepare_lung_masks(files, np.array(list(files.path_of)), Preparation(32))
    assert masks.rows.tolist() == [2]
    assert masks.inside.shape == (1, 32, 32)
    assert masks.left_out["no lung in the picture"] == 1
    assert sum(masks.left_out.values()) == 2


def test_collections_without_masks_have_none(tmp_path: Path) -> None:
    save(tmp_path / "images" / "x.png", lungs(40, 30))
    files = find_lung_masks(records(tmp_path, "x.png"))
    assert (files.num_files, dict(files.path_of)) == (0, {})
    masks = prepare_lung_masks(files, np.array([], np.int64), Preparation(32))
    assert masks.inside.shape == (0, 32, 32)


def test_masks_serve_only_the_collection_that_they_lie_in(tmp_path: Path) -> None:
    for root in ("one", "two"):
        save(tmp_path / root / "images" / "x.png", lungs(40, 30))
    save(tmp_path / "two" / FOLDER / "x_mask.png", lungs(40, 30))
    both = pd.concat([records(tmp_path / "one", "x.png"), records(tmp_path / "two", "x.png")], ignore_index=True)
    assert list(find_lung_masks(both).path_of) == [1]
