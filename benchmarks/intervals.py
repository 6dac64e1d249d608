"""What do the numbers of an evaluation cost beyond inference: all metrics and intervals, 1,000 resamples of patients?

    python benchmarks/intervals.py

Prints a Markdown table. Predictions are drawn (normal scores, three images for two patients on average), with sex, age,
view, source and country drawn as well; each row is a process of its own. "Numbers" is what evaluate.py writes into
metrics.json: `cxr.evaluation.assessment.assess`, with calibration and operating points fitted on as many validation
images, subgroups, and the dependence of the label on the split and on the run. "Bands" is
`cxr.evaluation.metrics.curves.curve_bands`. Seconds are processor time, medians over the rounds; memory is what the
process needs beyond the predictions.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from cxr.evaluation.assessment import Wishes, assess
from cxr.evaluation.calibration.fitting import fit_or_recall
from cxr.evaluation.evaluate import OPERATING_POINTS
from cxr.evaluation.metrics.curves import curve_bands
from cxr.evaluation.scoring.answers import Answers
from cxr.evaluation.scoring.subject import Subject
from cxr.evaluation.subgroups.bands import COLUMNS

NUM_RESAMPLES = 1000
CASES = ((1_000, 2), (10_000, 2), (10_000, 4), (100_000, 2))
WANTED = {10_000: 10.0}  # seconds, all together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each case (default 3)")
    arguments = parser.parse_args()

    print("| images | classes | numbers, s | bands, s | together, wall s | wanted | peak memory, MB |")
    print("|---:|---:|---:|---:|---:|---|---:|")
    for num_images, num_classes in CASES:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rounds = [pool.apply(once, (num_images, num_classes)) for _ in range(arguments.rounds)]
        numbers, bands, wall, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
        wanted = f"under {WANTED[num_images]:.0f} s" if num_images in WANTED else "-"
        row = f"| {num_images:,} | {num_classes} | {numbers:.2f} | {bands:.2f} | {wall:.2f} | {wanted} | {memory:.0f} |"
        print(row, flush=True)


def once(num_images: int, num_classes: int) -> tuple[float, float, float, float]:
    """Seconds of the numbers, of the bands, of both by the clock, and MB."""
    names = [f"class {number}" for number in range(num_classes)]
    answers, validation = draw(num_images, names, seed=0), draw(num_images, names, seed=1)
    before = peak()
    wall, start = time.perf_counter(), time.process_time()
    with TemporaryDirectory() as folder:
        fitted, _ = fit_or_recall(
            Path(folder) / "calibration.json",
            lambda: validation,
            names,
            names[0],
            method="temperature",
            rules=OPERATING_POINTS,
            abstain=None,
            checkpoint="best.ckpt",
            checkpoint_sha256="",
        )
    assert fitted is not None
    wishes = Wishes(prevalence=0.1, subgroups=COLUMNS, auroc_interval="bootstrap", num_resamples=NUM_RESAMPLES, seed=0)
    counts = Counter(dict.fromkeys(names, num_images // num_classes))
    calibrated = fitted.calibration.apply(answers.probabilities)
    threshold = 0.5 if num_classes == 2 else None
    assess(answers, names, names[0], counts, threshold, fitted, calibrated, wishes)
    middle = time.process_time()
    groups = answers.subject.records["group"].tolist()
    curve_bands(answers.probabilities[:, 0], answers.subject.labels == 0, groups, num_resamples=NUM_RESAMPLES)
    end = time.process_time()
    return middle - start, end - middle, time.perf_counter() - wall, (peak() - before) / 1e6


def draw(num_images: int, names: list[str], seed: int) -> Answers:
    """What a network that knows something says of a split of drawn patients."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(names), num_images)
    logits = generator.normal(size=(num_images, len(names))) + 1.5 * (labels[:, None] == np.arange(len(names)))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    patients = generator.integers(0, num_images * 2 // 3, num_images)

    def of_patient(values: list[str]) -> Any:
        return np.array(values, object)[generator.integers(0, len(values), num_images)[patients % num_images]]

    records = pd.DataFrame(
        {
            "group": [f"patient {number}" for number in patients],
            "label": np.array(names, object)[labels],
            "sex": of_patient(["M", "F"]),
            "age": generator.integers(1, 95, num_images).astype(float)[patients % num_images],
            "view": of_patient(["PA", "AP"]),
            "source": of_patient(["a", "b"]),
            "country": of_patient([f"country {number}" for number in range(8)]),
        }
    )
    batches: Any = None  # nothing is scored here
    subject = Subject("test", "Test split", records, batches, labels, {}, names[1], "the training split", [], [])
    return Answers(replace(subject, run_records=records), probabilities, {})


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
