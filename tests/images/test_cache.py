"""Is every image decoded once, stored whole or not at all, and found again by every process?"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from cxr.errors import DataError
from cxr.images.cache import PreparedImages, prepare_images
from cxr.images.decode import read_grey
from cxr.images.prepare import Preparation

SMALL = Preparation(32)


def draw(folder: Path, num_images: int, side: int = 40, first: int = 0) -> list[str]:
    """Different noisy pictures; the seed is the number in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(first, first + num_images):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side + number % 7)).astype(np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1], compress_level=1)
    return paths


def fingerprints(paths: Sequence[str]) -> list[str]:
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]


def prepare(paths: Sequence[str], cache_dir: Path, preparation: Preparation = SMALL, **options: int) -> PreparedImages:
    return prepare_images(paths, fingerprints(paths), preparation, cache_dir, progress=False, **options)


def files(cache_dir: Path, suffix: str) -> list[Path]:
    return sorted(cache_dir.glob(f"*{suffix}"))


def assert_right(prepared: PreparedImages, paths: Sequence[str], preparation: Preparation = SMALL) -> None:
    assert prepared.rows.dtype == np.int64
    for path, row in zip(paths, prepared.rows, strict=True):
        assert np.array_equal(prepared.pixels[row], preparation.apply(read_grey(path)))


def test_rows_lead_to_the_prepared_pixels_of_each_image(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 30)
    prepared = prepare(paths, tmp_path / "cache")
    assert isinstance(prepared.pixels, np.memmap)
    assert prepared.pixels.shape == (30, 32, 32)
    assert prepared.unreadable == []
    assert_right(prepared, paths)
    with pytest.raises(ValueError, match="read-only"):
        prepared.pixels[0] = 0


def test_equal_bytes_are_decoded_and_stored_once(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 5)
    copy = str(tmp_path / "copy.png")
    shutil.copy(paths[3], copy)
    twice = [copy, *paths, paths[0]]
    prepared = prepare(twice, tmp_path / "cache")
    assert prepared.num_unique == 5
    assert prepared.rows[0] == prepared.rows[4]
    assert prepared.rows[1] == prepared.rows[6]
    assert_right(prepared, twice)


def test_second_opening_reads_no_image_and_order_does_not_matter(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 8)
    sha256 = fingerprints(paths)
    first = prepare(paths, tmp_path / "cache")
    before = first.path.stat()
    expected = {sha: first.pixels[row].copy() for sha, row in zip(sha256, first.rows, strict=True)}
    shutil.rmtree(tmp_path / "images")
    backwards = prepare_images(paths[::-1], sha256[::-1], SMALL, tmp_path / "cache", progress=False)
    assert backwards.path.stat() == before
    for sha, row in zip(sha256[::-1], backwards.rows, strict=True):
        assert np.array_equal(backwards.pixels[row], expected[sha])


def test_every_preparation_has_its_own_cache(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 4)
    for preparation in (Preparation(16), Preparation(24), Preparation(24, "pad")):
        assert_right(prepare(paths, tmp_path / "cache", preparation), paths, preparation)
    assert len(files(tmp_path / "cache", ".pixels")) == 3


def test_changed_content_is_never_served_from_the_old_cache(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 4)
    prepare(paths, tmp_path / "cache")
    Image.fromarray(np.full((50, 50), 77, np.uint8)).save(paths[2])
    assert_right(prepare(paths, tmp_path / "cache"), paths)


def test_unreadable_images_are_listed_again_at_the_second_opening(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 4)
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:200])
    Path(paths[2]).write_bytes(b"")
    also_empty = tmp_path / "images" / "empty.jpg"
    also_empty.write_bytes(b"")
    paths.append(str(also_empty))
    expected = [(paths[1], "truncated"), (paths[2], "empty file"), (paths[4], "empty file")]
    for _ in range(2):
        prepared = prepare(paths, tmp_path / "cache")
        assert prepared.unreadable == expected
        assert prepared.num_unique == 2
        assert (prepared.rows < 0).tolist() == [False, True, True, False, True]
        assert_right(
            PreparedImages(prepared.path, 32, 2, prepared.rows[[0, 3]], []),
            [paths[0], paths[3]],
        )


def test_nothing_readable_and_nothing_at_all(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    for paths in ([str(bad)], []):
        for _ in range(2):
            prepared = prepare(paths, tmp_path / "cache")
            assert prepared.pixels.shape == (0, 32, 32)
            assert prepared.rows.tolist() == [-1] * len(paths)
            assert len(prepared.unreadable) == len(paths)
            assert pickle.loads(pickle.dumps(prepared)).pixels.shape == (0, 32, 32)


def damage_index(pixels: Path, index: Path) -> None:
    index.write_text(index.read_text().replace('"decoder": ', '"decoder": 9'))


def swap_rows(pixels: Path, index: Path) -> None:
    content = json.loads(index.read_text())
    content["images"].reverse()
    index.write_text(json.dumps(content))


def cut_index(pixels: Path, index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-40])


def shorten_pixels(pixels: Path, index: Path) -> None:
    with pixels.open("r+b") as file:
        file.truncate(pixels.stat().st_size - 1)


def lose_pixels(pixels: Path, index: Path) -> None:
    pixels.unlink()


def lose_index(pixels: Path, index: Path) -> None:
    index.unlink()


def replace_index(pixels: Path, index: Path) -> None:
    index.write_text("[]")


@pytest.mark.parametrize(
    "damage", [damage_index, swap_rows, cut_index, shorten_pixels, lose_pixels, lose_index, replace_index]
)
def test_damage_is_noticed_and_mended(tmp_path: Path, damage: object) -> None:
    paths = draw(tmp_path / "images", 6)
    old = prepare(paths, tmp_path / "cache")
    damage(files(tmp_path / "cache", ".pixels")[0], files(tmp_path / "cache", ".json")[0])  # type: ignore[operator]
    new = prepare(paths, tmp_path / "cache")
    assert_right(new, paths)
    assert len(files(tmp_path / "cache", ".pixels")) == 1
    if damage not in (shorten_pixels, lose_pixels):
        assert_right(old, paths)  # whoever has the old file open keeps it


def test_images_that_another_cache_holds_are_copied_not_decoded(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 9)
    bad = tmp_path / "images" / "bad.png"
    bad.write_bytes(b"no image")
    sha256 = fingerprints([*paths, str(bad)])
    prepare([*paths[:6], str(bad)], tmp_path / "cache")
    expected = [SMALL.apply(read_grey(path)) for path in paths]
    for path in (*paths[:6], bad):  # what was decoded before is no longer needed
        Path(path).unlink()
    prepared = prepare_images([*paths, str(bad)], sha256, SMALL, tmp_path / "cache", progress=False)
    assert np.array_equal(prepared.pixels[prepared.rows[:9]], np.stack(expected))
    assert prepared.unreadable == [(str(bad), "not an image")]
    with pytest.raises(DataError, match="cannot be opened"):  # another preparation cannot take them from there
        prepare_images(paths, sha256[:9], Preparation(33), tmp_path / "cache", progress=False)


def test_damaged_cache_of_others_is_not_copied_from(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 6)
    prepare(paths[:4], tmp_path / "cache")
    swap_rows(Path(), files(tmp_path / "cache", ".json")[0])
    assert_right(prepare(paths, tmp_path / "cache"), paths)


def test_pickle_is_small_and_opens_the_same_pixels_in_another_process(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 40)
    prepared = prepare(paths, tmp_path / "cache", Preparation(64))
    pickled = pickle.dumps(prepared)
    assert len(pickled) < 4000 < prepared.pixels.nbytes
    code = "import pickle, sys; print(int(pickle.load(sys.stdin.buffer).pixels.astype(int).sum()))"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert int(done.stdout) == int(np.asarray(prepared.pixels).astype(int).sum())


def test_a_file_that_changes_after_its_fingerprint_is_an_error(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 3)
    sha256 = fingerprints(paths)
    shutil.copy(paths[0], paths[1])
    with pytest.raises(DataError, match=r"1\.png: .*fingerprint"):
        prepare_images(paths, sha256, SMALL, tmp_path / "cache", progress=False)
    assert not files(tmp_path / "cache", ".json")
    assert not files(tmp_path / "cache", ".partial")


def test_lists_of_unequal_length_and_no_workers_are_refused(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 2)
    with pytest.raises(ValueError, match="fingerprints"):
        prepare_images(paths, ["0"], SMALL, tmp_path)
    with pytest.raises(ValueError, match="num_workers"):
        prepare_images(paths, fingerprints(paths), SMALL, tmp_path, num_workers=0)


# --- with real processes ---------------------------------------------------------------------------------------------

CHILD = """
import hashlib, json, signal, sys
# A suite that runs in the background is started with SIGINT ignored, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from cxr.errors import CxrError
from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation
folder, cache, size, limit = sys.argv[1:5]
if int(limit):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
paths = sorted(str(path) for path in Path(folder).iterdir())
sha256 = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]
print("ready", flush=True)
sys.stdin.readline()
try:
    prepared = prepare_images(paths, sha256, Preparation(int(size)), cache, num_workers=2)
except CxrError as error:
    sys.exit(f"{type(error).__name__}: {error}")
stat = prepared.path.stat()
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([stat.st_ino, stat.st_mtime_ns, int(prepared.pixels[prepared.rows[0]].astype(int).sum()), int(peak)]))
"""


def start(folder: Path, cache_dir: Path, size: int = 32, limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), str(cache_dir), str(size), str(limit)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def slow_to_decode(folder: Path, num_images: int) -> None:
    """Large pictures of different bytes: a JPEG ignores what follows its end."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 3000)).astype(np.uint8)).save(file, "JPEG")
    folder.mkdir(parents=True)
    for number in range(num_images):
        (folder / f"{number:03}.jpg").write_bytes(file.getvalue() + bytes([number]))


def wait_for(condition: object, child: subprocess.Popen[str]) -> None:
    while not condition():  # type: ignore[operator]
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)


def test_concurrent_processes_build_once_and_agree(tmp_path: Path) -> None:
    draw(tmp_path / "images", 60, side=300)
    children = [start(tmp_path / "images", tmp_path / "cache") for _ in range(3)]
    for child in children:
        go(child)
    outcomes = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outcomes
    assert len({tuple(json.loads(out)[:3]) for out, _ in outcomes}) == 1  # a second build would be another file
    assert all(not err for _, err in outcomes)  # no progress bar where stderr is no terminal
    assert len(files(tmp_path / "cache", ".pixels")) == 1
    assert not files(tmp_path / "cache", ".partial")


def test_a_process_waits_for_the_one_that_builds(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 3)
    lock = prepare(paths, tmp_path / "cache").path.with_suffix(".lock")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    with FileLock(lock):
        child = start(tmp_path / "images", tmp_path / "cache")
        go(child)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.7)
        assert not files(tmp_path / "cache", ".json")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, (out, err)


def test_interrupt_leaves_no_partial_file(tmp_path: Path) -> None:
    slow_to_decode(tmp_path / "images", 40)
    child = start(tmp_path / "images", tmp_path / "cache")
    go(child)
    wait_for(lambda: files(tmp_path / "cache", ".partial"), child)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "KeyboardInterrupt" in err
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_a_killed_process_leaves_is_neither_served_nor_kept(tmp_path: Path) -> None:
    slow_to_decode(tmp_path / "images", 24)
    child = start(tmp_path / "images", tmp_path / "cache")
    go(child)
    wait_for(lambda: files(tmp_path / "cache", ".partial"), child)
    child.kill()
    child.communicate(timeout=60)
    assert files(tmp_path / "cache", ".partial")
    assert not files(tmp_path / "cache", ".json")
    paths = sorted(str(path) for path in (tmp_path / "images").iterdir())
    prepared = prepare(paths, tmp_path / "cache")
    assert not files(tmp_path / "cache", ".partial")
    assert_right(PreparedImages(prepared.path, 32, 24, prepared.rows[:2], []), paths[:2])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of a file")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "images", 20)
    child = start(tmp_path / "images", tmp_path / "cache", size=64, limit=64 * 64 * 10)
    go(child)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err.startswith("DataError: ")
    assert len(err.strip().splitlines()) == 1
    assert str(tmp_path / "cache") in err
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    paths = draw(tmp_path / "images", 2)
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    with pytest.raises(DataError, match="cannot be used"):
        prepare(paths, tmp_path / "cache")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peak memory from /proc")
def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    draw(tmp_path / "few", 20)
    shutil.copytree(tmp_path / "few", tmp_path / "many")
    draw(tmp_path / "many", 300, first=20)
    peaks = []
    for name in ("few", "many"):
        child = start(tmp_path / name, tmp_path / f"cache-{name}", size=512)
        go(child)
        out, err = child.communicate(timeout=100)
        assert child.returncode == 0, err
        peaks.append(json.loads(out)[3] * 1024)
    written = [files(tmp_path / f"cache-{name}", ".pixels")[0].stat().st_size for name in ("few", "many")]
    assert written[1] - written[0] == 300 * 512 * 512
    assert peaks[1] - peaks[0] < (written[1] - written[0]) / 3


@pytest.mark.real_data
def test_real_collection_is_prepared_whole(tmp_path: Path) -> None:
    root = os.environ.get("CXR_REAL_DATA")
    if not root:
        pytest.skip("CXR_REAL_DATA is not set")
    paths = sorted(str(path) for path in (Path(root) / "covid-chestxray-dataset" / "images").iterdir())
    prepared = prepare(paths, tmp_path / "cache", Preparation(128))
    assert prepared.unreadable == []
    assert (np.asarray(prepared.pixels).std(axis=(1, 2)) > 5).all()
    assert_right(
        PreparedImages(prepared.path, 128, prepared.num_unique, prepared.rows[::20], []), paths[::20], Preparation(128)
    )
