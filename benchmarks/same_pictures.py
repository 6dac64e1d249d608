"""How do the time and the memory of the search for same pictures grow with the number of pictures?

    python benchmarks/same_pictures.py --data <folder with chest_xray/> --folder <12 GB of space>

Prints a Markdown table: real radiographs alone, and 6 of them to 94 drawn ones (phantoms of 128 px) up to 100,000, each
row a process of its own that compares pictures which were prepared before, as an audit does. "Growth" is the exponent
of n in the processor time since the row above it of the same pictures: 1 is linear, 2 is all pairs. Memory is the most
that the process had resident, without the pages of the prepared pictures themselves (64 KB a picture), which the
system gives back when others need them.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.audit.same_pictures import SIZE, find_same_pictures
from cxr.images.cache import prepare_images
from cxr.images.prepare import Preparation
from cxr.sources.reading import read_sources

MOST_GROWTH = 1.2
REAL_SHARE = 0.0584  # 5,840 of 100,000
EVERY = 0.05  # seconds between two looks at the memory


@dataclass(frozen=True)
class Cost:
    wall: float
    cpu: float
    num_judged: int
    num_pairs: int
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds chest_xray/")
    parser.add_argument("--folder", type=Path, required=True, help="where drawings and prepared pictures are kept")
    parser.add_argument("--real", type=int, nargs="*", default=[1000, 2500, 5840], help="numbers of real radiographs")
    parser.add_argument("--mixed", type=int, nargs="*", default=[1000, 10_000, 100_000], help="real and drawn together")
    arguments = parser.parse_args()

    print("| pictures | wall, s | CPU, s | CPU, ms each | growth | wanted | placings judged | pairs | memory, MB |")
    print("|---|---:|---:|---:|---:|---|---:|---:|---:|")
    for name, numbers in (("real", arguments.real), ("real and drawn", arguments.mixed)):
        before: tuple[int, float] | None = None
        for number in numbers:
            num_real = number if name == "real" else round(number * REAL_SHARE)
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                jobs = (arguments.data, arguments.folder, num_real, number - num_real)
                pool.apply(prepare, jobs)
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                cost = pool.apply(search, jobs)
            growth = "-" if before is None else f"{math.log(cost.cpu / before[1]) / math.log(number / before[0]):.2f}"
            before = number, cost.cpu
            cells = [
                f"{number:,} {name}", f"{cost.wall:.0f}", f"{cost.cpu:.0f}", f"{cost.cpu / number * 1e3:.1f}", growth,
                "-" if growth == "-" else f"at most {MOST_GROWTH:g}", f"{cost.num_judged:,}", f"{cost.num_pairs:,}",
                f"{cost.peak_mb:,.0f}",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


def pictures(data: Path, folder: Path, num_real: int, num_drawn: int) -> pd.DataFrame:
    """The records, with fingerprints."""
    real = read({"chest_xray": {"kind": "class_folders", "root": "chest_xray", "patient": "paediatric"}}, data, folder)
    records = real.iloc[np.linspace(0, len(real) - 1, min(num_real, len(real))).astype(int)]
    if num_drawn:
        drawn = {"kind": "phantom", "num_patients": num_drawn, "images_per_patient": 1, "size": 128}
        records = pd.concat([records, read({"drawn": drawn}, data, folder)], ignore_index=True)
    return records


def read(sources: Mapping[str, Mapping[str, object]], data: Path, folder: Path) -> pd.DataFrame:
    """The records of all different files."""
    manifest = read_sources(
        sources, data_dir=data, cache_dir=folder, classes=None, views=None, download=False, keep_unlabelled=True,
        progress=False,
    )  # fmt: skip
    return manifest.records.drop_duplicates("sha256")


def prepare(data: Path, folder: Path, num_real: int, num_drawn: int) -> None:
    records = pictures(data, folder, num_real, num_drawn)
    paths, sha256 = records["path"].tolist(), records["sha256"].tolist()
    prepare_images(paths, sha256, Preparation(SIZE, "pad"), folder, progress=False)


def search(data: Path, folder: Path, num_real: int, num_drawn: int) -> Cost:
    records = pictures(data, folder, num_real, num_drawn)
    peak, ended = [anonymous_mb()], threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    found = find_same_pictures(records, folder, progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ended.set()
    watcher.join()
    return Cost(wall, cpu, found.num_candidates, len(found.pairs), peak[0])


def anonymous_mb() -> float:
    """Resident memory of this process that no file stands behind, MB (Linux)."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 2**10


if __name__ == "__main__":
    main()
