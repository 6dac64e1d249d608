"""What do the intervals cost: seconds and peak memory of all metrics and curve bands with 1,000 resamples of patients?

    python benchmarks/intervals.py

Prints a Markdown table. Predictions are drawn (normal scores, three images for two patients on average), each row is
a process of its own. "Metrics" is `cxr.evaluation.metrics.measures.measure`, "bands" is
`cxr.evaluation.metrics.curves.curve_bands`. Seconds are processor time, medians over the rounds; memory is what
the process needs beyond the predictions.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time

import numpy as np

from cxr.evaluation.metrics.curves import curve_bands
from cxr.evaluation.metrics.measures import measure

NUM_RESAMPLES = 1000
CASES = ((1_000, 2), (10_000, 2), (10_000, 4), (100_000, 2))
WANTED = {10_000: 10.0}  # seconds, all together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each case (default 3)")
    arguments = parser.parse_args()

    print("| images | classes | metrics, s | bands, s | together, wall s | wanted | peak memory, MB |")
    print("|---:|---:|---:|---:|---:|---|---:|")
    for num_images, num_classes in CASES:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rounds = [pool.apply(once, (num_images, num_classes)) for _ in range(arguments.rounds)]
        metrics, bands, wall, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
        wanted = f"under {WANTED[num_images]:.0f} s" if num_images in WANTED else "-"
        row = f"| {num_images:,} | {num_classes} | {metrics:.2f} | {bands:.2f} | {wall:.2f} | {wanted} | {memory:.0f} |"
        print(row, flush=True)


def once(num_images: int, num_classes: int) -> tuple[float, float, float, float]:
    """Seconds of the metrics, of the bands, of both by the clock, and MB."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, num_classes, num_images)
    logits = generator.normal(size=(num_images, num_classes)) + 1.5 * (labels[:, None] == np.arange(num_classes))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    groups = [f"patient {number}" for number in generator.integers(0, num_images * 2 // 3, num_images)]
    names = [f"class {number}" for number in range(num_classes)]
    before = peak()
    wall, start = time.perf_counter(), time.process_time()
    measure(probabilities, labels, groups, names, names[0], names[1], num_resamples=NUM_RESAMPLES)
    middle = time.process_time()
    curve_bands(probabilities[:, 0], labels == 0, groups, num_resamples=NUM_RESAMPLES)
    end = time.process_time()
    return middle - start, end - middle, time.perf_counter() - wall, (peak() - before) / 1e6


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
