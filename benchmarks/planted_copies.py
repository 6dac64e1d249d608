"""How many copies does the search for same pictures find, and whom does it mistake for another?

    python benchmarks/planted_copies.py --data <folder with chest_xray/ and covid-chestxray-dataset/>

Changes real radiographs in ways in which published collections changed theirs, hides the copies among all radiographs
and searches. Prints a Markdown table of the copies found of each kind with a 95 % interval (Wilson), and the pairs of
different patients at or above the threshold, each of which must be looked at. The parents of the copies are drawn from
one half of the images (--half, by the last bit of their SHA-256), so that method and thresholds can be chosen on the
other. --figure draws the distribution of the scores of true and false pairs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from cxr.audit.same_pictures import SIZE, THRESHOLD, WHOLE, match_pictures
from cxr.evaluation.figure_style import FIRST, QUIET, SECOND, drawing
from cxr.images.cache import usable_cores
from cxr.images.decode import decode_grey, read_grey
from cxr.images.prepare import Preparation
from cxr.sources.reading import read_sources

Grey = NDArray[np.uint8]
Change = Callable[[Grey, np.random.Generator], Grey]

SOURCES = {
    "chest_xray": {"kind": "class_folders", "root": "chest_xray", "patient": "paediatric"},
    "covid_chestxray": {"kind": "covid_chestxray", "root": "covid-chestxray-dataset"},
}
# Patients of these collections who share a picture although their ids differ; each pair was looked at.
ONE_PERSON = [
    {"30", "31"}, {"78", "201"}, {"97", "178"}, {"137", "202"}, {"192", "196"}, {"193", "195"}, {"285", "339"},
    {"287", "340"}, {"person401_bacteria", "person405_bacteria"},
]  # fmt: skip
WANTED = {"near-duplicate": 0.99, "crop": 0.97}
MOST_FALSE_PER_MILLION = 1.0


# ------------------------------------------------------------------------------------------------------ the changes


def reencoded(grey: Grey, rng: np.random.Generator) -> Grey:
    return _jpeg(grey, int(rng.integers(30, 91)))


def resized(grey: Grey, rng: np.random.Generator) -> Grey:
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    return _to(grey, scale, scale)


def stretched(grey: Grey, rng: np.random.Generator) -> Grey:
    """As collections that resize everything to a square do."""
    across = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    return _to(grey, across, 1.0)


def tone(grey: Grey, rng: np.random.Generator) -> Grey:
    """Brightness, contrast and gamma."""
    values = (grey.astype(np.float32) / 255) ** float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))
    values = (values - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.uniform(-0.12, 0.12)
    return np.asarray(np.clip(values * 255, 0, 255), np.uint8)


def labelled(grey: Grey, rng: np.random.Generator) -> Grey:
    """One to three words, some in a box, letters up to a tenth of the side high."""
    picture = grey.copy()
    height, width = picture.shape
    scale = min(height, width) / 224
    for _ in range(int(rng.integers(1, 4))):
        text = str(rng.choice(["L", "R", "PORTABLE", "AP", "12:40", "SUPINE"]))
        size = float(rng.uniform(0.4, 1.0)) * scale
        thick = max(1, round(size * 2))
        (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
        x, y = int(rng.integers(0, max(1, width - wide))), int(rng.integers(high, max(high + 1, height - below)))
        if rng.random() < 0.3:
            cv2.rectangle(picture, (x, y - high - below), (x + wide, y + below), int(rng.integers(0, 256)), -1)
        cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, int(rng.choice([0, 255, 230])), thick)
    return picture


def bordered(grey: Grey, rng: np.random.Generator) -> Grey:
    """An even border of 2 to 12 % on one to four sides."""
    height, width = grey.shape
    sides = rng.random(4) < 0.75
    sides[int(rng.integers(4))] = True
    thick = rng.uniform(0.02, 0.12, 4) if rng.random() < 0.5 else np.full(4, rng.uniform(0.02, 0.12))
    top, bottom = (round(float(height * t)) if on else 0 for t, on in zip(thick[:2], sides[:2], strict=True))
    left, right = (round(float(width * t)) if on else 0 for t, on in zip(thick[2:], sides[2:], strict=True))
    level = int(rng.choice([0, 255, int(rng.integers(0, 256))]))
    return np.asarray(cv2.copyMakeBorder(grey, top, bottom, left, right, cv2.BORDER_CONSTANT, value=level), np.uint8)


def crop(low: float, high: float, *, free: bool = False) -> Change:
    """A part of the side of the picture; `free` lets width and height differ."""

    def cut(grey: Grey, rng: np.random.Generator) -> Grey:
        across, down = rng.uniform(low, high, 2) if free else [rng.uniform(low, high)] * 2
        high_, wide = (round(float(n * part)) for n, part in zip(grey.shape, (down, across), strict=True))
        top, left = int(rng.integers(0, grey.shape[0] - high_ + 1)), int(rng.integers(0, grey.shape[1] - wide + 1))
        return np.ascontiguousarray(grey[top : top + high_, left : left + wide])

    return cut


def both(*changes: Change) -> Change:
    def all_of(grey: Grey, rng: np.random.Generator) -> Grey:
        for change in changes:
            grey = change(grey, rng)
        return grey

    return all_of


def _to(grey: Grey, across: float, down: float) -> Grey:
    size = max(8, round(grey.shape[1] * across)), max(8, round(grey.shape[0] * down))
    shrinks = min(across, down) < 1
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8)


def _jpeg(grey: Grey, quality: int) -> Grey:
    _, content = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return decode_grey(content.tobytes(), "copy.jpg")


@dataclass(frozen=True)
class Kind:
    """`counts`: whether the requirement is held against it, and not only shown."""

    name: str
    family: str
    change: Change
    counts: bool


KINDS = (
    Kind("encoded again (JPEG, quality 30 to 90)", "near-duplicate", reencoded, True),
    Kind("resized (0.5 to 2)", "near-duplicate", resized, True),
    Kind("stretched (0.8 to 1.25)", "near-duplicate", stretched, True),
    Kind("brightness, contrast, gamma", "near-duplicate", tone, True),
    Kind("labelled", "near-duplicate", labelled, True),
    Kind("with a border (2 to 12 %)", "near-duplicate", bordered, True),
    Kind(
        "all of these at once", "near-duplicate", both(tone, labelled, stretched, bordered, resized, reencoded), False
    ),
    Kind("side 0.9 to 0.95", "crop", crop(0.9, 0.95), True),
    Kind("side 0.8 to 0.9", "crop", crop(0.8, 0.9), True),
    Kind("side 0.7 to 0.8", "crop", crop(0.7, 0.8), True),
    Kind("side 0.6 to 0.7", "crop", crop(0.6, 0.7), True),
    Kind("free aspect, sides 0.6 to 1", "crop", crop(0.6, 1.0, free=True), True),
    Kind("side 0.6 to 0.9, tone, encoded again", "crop", both(crop(0.6, 0.9), tone, reencoded), True),
    Kind("side 0.6 to 0.9, labelled", "crop", both(crop(0.6, 0.9), labelled), False),
    Kind("side 0.7 to 0.9, with tone and border", "crop", both(crop(0.7, 0.9), tone, bordered), False),
    Kind("side 0.5 to 0.6", "crop", crop(0.5, 0.6), False),
)


# -------------------------------------------------------------------------------------------------------- the trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the collections")
    parser.add_argument("--seed", type=int, default=1, help="of parents and changes (default 1)")
    parser.add_argument("--half", choices=("even", "odd"), default="even", help="half that parents come from")
    parser.add_argument("--copies", type=int, default=200, help="of each kind (default 200)")
    parser.add_argument("--images", type=int, help="originals to search among (default: all)")
    parser.add_argument("--figure", type=Path, help="PNG of the scores of true and false pairs")
    parser.add_argument("--table", type=Path, help="CSV of every score, for a closer look")
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    with TemporaryDirectory() as cache:
        records = read_sources(
            SOURCES, data_dir=arguments.data, cache_dir=cache, classes=None, views=None, download=False,
            keep_unlabelled=True, progress=False,
        ).records  # fmt: skip
    records = records.drop_duplicates("sha256").reset_index(drop=True)
    if arguments.images is not None:
        records = records.iloc[np.sort(rng.permutation(len(records))[: arguments.images])].reset_index(drop=True)
    preparation, workers = Preparation(SIZE, "pad"), usable_cores()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(workers) as pool:
        originals = list(pool.map(lambda path: preparation.apply(read_grey(path)), records["path"]))
        half = {"even": 0, "odd": 1}[arguments.half]
        parents = np.flatnonzero([int(digest, 16) % 2 == half for digest in records["sha256"]])
        chosen = [rng.choice(parents, arguments.copies, replace=False) for _ in KINDS]
        plan = [(kind, int(parent)) for kind, drawn in zip(KINDS, chosen, strict=True) for parent in drawn]
        seeds = rng.integers(0, 2**32, len(plan))

        def plant(job: tuple[tuple[Kind, int], int]) -> Grey:
            (kind, parent), seed = job
            grey = read_grey(records["path"][parent])
            return preparation.apply(_jpeg(kind.change(grey, np.random.default_rng(seed)), 95))

        copies = list(pool.map(plant, zip(plan, seeds, strict=True)))
    pixels = np.stack([*originals, *copies])
    print(f"{len(originals):,} different radiographs, {len(copies):,} planted copies", file=sys.stderr)

    start = time.perf_counter()
    found = match_pictures(pixels, num_workers=workers, threshold=-1.0)
    print(f"searched in {time.perf_counter() - start:.0f} s, {len(found.one):,} placings judged", file=sys.stderr)
    parent_of = np.concatenate([np.arange(len(originals)), [parent for _, parent in plan]])
    scores = pd.DataFrame(
        {
            "one": found.one,
            "other": found.other,
            "parent_one": parent_of[found.one],
            "parent_other": parent_of[found.other],
            "score": [each.score for each in found.agreement],
            "part": [min(each.part_of_one, each.part_of_other) for each in found.agreement],
        }
    )
    names = np.array([*["original"] * len(originals), *[kind.name for kind, _ in plan]], object)
    scores["kind_one"], scores["kind_other"] = names[scores["one"]], names[scores["other"]]
    scores["path_one"] = records["path"].to_numpy()[scores["parent_one"]]
    scores["path_other"] = records["path"].to_numpy()[scores["parent_other"]]
    if arguments.table is not None:
        scores.to_csv(arguments.table, index=False)

    true_scores = recall_table(scores, plan, len(originals))
    print()
    false_scores = false_table(scores, records, len(pixels), found.num_candidates)
    if arguments.figure is not None:
        draw(arguments.figure, true_scores, false_scores, len(pixels))


def recall_table(
    scores: pd.DataFrame, plan: list[tuple[Kind, int]], num_originals: int
) -> dict[str, NDArray[np.float64]]:
    """Prints how many copies were found together with their parents; the scores of those that count, by family."""
    best = np.zeros(len(plan))
    part = np.zeros(len(plan))
    direct = scores[(scores["parent_one"] == scores["parent_other"]) & (scores["one"] < num_originals)]
    for row in direct.itertuples():
        if row.one == row.parent_one and row.other >= num_originals:
            best[row.other - num_originals], part[row.other - num_originals] = row.score, row.part
    families = np.array([kind.family for kind, _ in plan])
    counts = np.array([kind.counts for kind, _ in plan])
    print("| planted | copies | found | recall | 95 % interval | not even compared | called a crop | wanted |")
    print("|---|---:|---:|---:|---|---:|---:|---|")
    for kind in KINDS:
        rows = np.array([each is kind for each, _ in plan])
        _row(f"{kind.family}: {kind.name}", best[rows], part[rows], WANTED[kind.family] if kind.counts else None)
    for family, wanted in WANTED.items():
        rows = counts & (families == family)
        _row(f"**{family}, all with a bound**", best[rows], part[rows], wanted)
    return {family: best[counts & (families == family)] for family in WANTED}


def _row(name: str, best: NDArray[np.float64], part: NDArray[np.float64], wanted: float | None) -> None:
    found = best >= THRESHOLD
    low, high = binomtest(int(found.sum()), len(found)).proportion_ci(method="wilson")
    cells = [
        name, len(found), int(found.sum()), f"{found.mean():.3f}", f"{low:.3f}-{high:.3f}", int((best == 0).sum()),
        int((part[found] < WHOLE).sum()), "-" if wanted is None else f"at least {wanted:g}",
    ]  # fmt: skip
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def false_table(scores: pd.DataFrame, records: pd.DataFrame, num_pictures: int, num_judged: int) -> NDArray[np.float64]:
    """Prints the pairs of different patients above the threshold; the scores of all that were judged."""
    patients = records["patient"].to_numpy(object)
    groups = records["group"].to_numpy(object)
    differ = groups[scores["parent_one"]] != groups[scores["parent_other"]]
    known = [
        {one, other} in ONE_PERSON
        for one, other in zip(patients[scores["parent_one"]], patients[scores["parent_other"]], strict=True)
    ]
    different = scores[differ & ~np.array(known)]
    merged = different[different["score"] >= THRESHOLD]
    num_pairs = num_pictures * (num_pictures - 1) / 2
    per_million = len(merged) / num_pairs * 1e6
    print(
        f"{num_pairs / 1e6:.1f} million pairs, of which {num_judged:,} were laid over each other; "
        f"{len(merged)} of different patients at {THRESHOLD:g} or above: {per_million:.2f} per million "
        f"(wanted: at most {MOST_FALSE_PER_MILLION:g}); the highest score of different patients is "
        f"{different['score'].max():.3f}, the next {different['score'].nlargest(6).round(3).tolist()[1:]}"
    )
    if len(merged):
        print("\n| one | other | score | planted as |\n|---|---|---:|---|")
        for row in merged.sort_values("score", ascending=False).itertuples():
            names = Path(row.path_one).name, Path(row.path_other).name
            print(f"| {names[0]} | {names[1]} | {row.score:.3f} | {row.kind_one} / {row.kind_other} |")
        print(f"\npairs of parents: {len(Counter(zip(merged['parent_one'], merged['parent_other'], strict=True)))}")
    return different["score"].to_numpy(np.float64)


def draw(path: Path, true_scores: dict[str, NDArray[np.float64]], false_scores: NDArray[np.float64], num: int) -> None:
    """The distribution of the scores: copies by family, and pairs of different patients laid over each other."""
    bins = np.linspace(0, 1, 51)
    title = "Scores of copies and of different patients"
    subtitle = f"share of the pairs in each bin of 0.02 (logarithmic), {num:,} pictures"
    with drawing(path, (7.2, 3.6), title, subtitle) as figure:
        axes = figure.add_subplot()
        styles = {"near-duplicate": (FIRST, "-"), "crop": (SECOND, "--")}
        axes.stairs(
            np.histogram(false_scores, bins)[0] / len(false_scores), bins, fill=True, color="#c9c9c9",
            label=f"different patients ({len(false_scores):,} laid over each other to the end)",
        )  # fmt: skip
        for family, values in true_scores.items():
            color, line = styles[family]
            share = np.histogram(values, bins)[0] / len(values)
            axes.stairs(share, bins, color=color, linestyle=line, linewidth=1.8, label=f"{family} ({len(values):,})")
        axes.axvline(THRESHOLD, color=QUIET, linewidth=1.0)
        axes.annotate(
            f"a pair from {THRESHOLD:g}", (THRESHOLD, 1), (-4, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="right", va="top", color=QUIET,
        )  # fmt: skip
        # Logarithmic: what counts is the tails, one pair of thousands.
        axes.set(xlim=(0, 1), yscale="log", ylim=(5e-5, 2), xlabel="score (0: not even compared)")
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        axes.legend(loc="upper left")


if __name__ == "__main__":
    main()
