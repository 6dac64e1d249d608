"""What does it cost to build the prepared cache: processor time against a plain Pillow loop, and peak memory?

    python benchmarks/cache_build.py --data <folder with chest_xray/ and covid-chestxray-dataset/>

Prints two Markdown tables. The plain loop opens each file, converts it to "L" and resizes it with Pillow's antialiased
bilinear filter to the same square, and throws the result away; the cache also checks the fingerprint, crops, applies
orientation and transparency, and writes to disk. "Per core" means per second of processor time, all threads together.
Rounds are interleaved (loop, cache, loop, cache, ...), files are in the page cache, numbers are medians over rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation

COLLECTIONS = {"chest_xray": "chest_xray", "covid-chestxray-dataset": "covid-chestxray-dataset/images"}
MEMORY_COLLECTION = "chest_xray"
MEMORY_SIZE = 224
SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the collections")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512], help="image sizes (default 224 512)")
    arguments = parser.parse_args()

    files = {name: image_files(arguments.data / folder) for name, folder in COLLECTIONS.items()}
    memory_table(files[MEMORY_COLLECTION])  # first, while this process is small: a child inherits its peak
    print()
    speed_table(files, arguments.sizes, arguments.rounds)


def image_files(folder: Path) -> list[str]:
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        sys.exit(f"no images under {folder}")
    return found


def memory_table(paths: list[str]) -> None:
    print(f"| images of {MEMORY_COLLECTION} at {MEMORY_SIZE} px | pixels written, MB | peak memory, MB |")
    print("|---:|---:|---:|")
    for num_images in (0, len(paths) // 10, len(paths)):
        step = len(paths) // num_images if num_images else 1
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            written, peak = pool.apply(build_once, (paths[::step][:num_images],))
        print(f"| {num_images} | {written / 1e6:.0f} | {peak / 1e6:.0f} |", flush=True)


def build_once(paths: list[str]) -> tuple[int, int]:
    """Bytes of pixels written and peak resident bytes of this process."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_images(paths, fingerprints(paths), Preparation(MEMORY_SIZE), folder, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return prepared.num_unique * MEMORY_SIZE**2, peak * (1 if sys.platform == "darwin" else 1024)


def speed_table(files: dict[str, list[str]], sizes: list[int], rounds: int) -> None:
    print("| collection | size | images | Pillow, images/s per core | cache, images/s per core | ratio | cache, wall |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, paths in files.items():
        sha256 = fingerprints(paths)  # also brings the files into the page cache
        for size in sizes:
            loop, cache, wall = [], [], []
            for _ in range(rounds):
                loop.append(cost(lambda: plain_loop(paths, size))[0])  # noqa: B023 - called at once
                with tempfile.TemporaryDirectory() as folder:
                    build = cost(lambda: prepare_images(paths, sha256, Preparation(size), folder, progress=False))  # noqa: B023
                cache.append(build[0])
                wall.append(build[1])
            ratio = statistics.median(a / b for a, b in zip(loop, cache, strict=True))
            per_core = [len(paths) / statistics.median(seconds) for seconds in (loop, cache)]
            print(
                f"| {name} | {size} | {len(paths)} | {per_core[0]:.0f} | {per_core[1]:.0f} | {ratio:.2f} | "
                f"{statistics.median(wall):.1f} s |",
                flush=True,
            )


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Processor and wall seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def plain_loop(paths: list[str], size: int) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.convert("L").resize((size, size), Image.Resampling.BILINEAR)


def fingerprints(paths: list[str]) -> list[str]:
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]


if __name__ == "__main__":
    main()
