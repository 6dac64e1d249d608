"""How long until the validation AUROC is 0.98, against fastai's `fit_one_cycle` on the same network and radiographs?

    uv run --group benchmark python benchmarks/time_to_auroc.py --data <folder with chest_xray>
    uv run --group benchmark python benchmarks/time_to_auroc.py --data <folder> --seeds 0 --fastai-lr 3e-3

Healthy against pneumonia, from random weights, validation by patient out of the collection's training folder. cxr is
train.py with the settings below. fastai is a `Learner` around the same timm network with its `aug_transforms` and
`fit_one_cycle`, on the same division and the same pixels: the radiographs as cxr prepared them, one small PNG each, so
that neither side is charged for the large originals. Words without dashes go to train.py, for trials.

The clock runs from the first step to the end of the validation that reaches the AUROC, validations of earlier epochs
included; start-up, reading of the table, audit and preparation lie before it. The sides take turns, a process each,
once for each seed. Both sides were tuned on seed 0, which is none of those below. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from child_process import ChildProcess, answers_alone

ROOT = Path(__file__).resolve().parents[1]
TARGET = 0.98
WANTED = 1.5
NETWORK = "resnet10t"
CXR = [
    "data.image_size=64",
    "data.batch_size=32",
    "optimizer.lr=3e-3",
    "trainer.max_epochs=4",
]
FASTAI = {"size": 64, "batch_size": 32, "lr": 3e-3, "epochs": 4, "workers": 0}
SAME = [
    "data=chest_xray",
    f"model.name={NETWORK}",
    "model.pretrained=false",
    "augment=fastai_v1",
    "trainer.gpus=0",
    "data.look_for_copies=false",
    "audit.shortcuts=false",
    "logger=none",
]


def main() -> int:
    given, words = read_arguments()
    if given.side is not None:
        train_fastai(given)
        return 0
    if importlib.util.find_spec("fastai") is None:
        print(f"fastai is missing: uv run --group benchmark python {' '.join(sys.argv)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return compare(given, words, Path(folder))


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds chest_xray")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sides", nargs="+", choices=("cxr", "fastai"), default=["cxr", "fastai"])
    for name, value in FASTAI.items():
        parser.add_argument(f"--fastai-{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    given, words = parser.parse_known_args()
    if any(word.startswith("-") for word in words):
        parser.error(f"{' '.join(words)}: the words for train.py have no dashes")
    return given, words


def compare(given: argparse.Namespace, words: list[str], folder: Path) -> int:
    # A first short training divides and prepares, so that no side pays for it.
    first = train_cxr(given, [*words, "trainer.max_epochs=1", "trainer.limit_train_batches=2"], folder, seed=0)
    table = write_pictures(first, given.data, given.fastai_size, folder) if "fastai" in given.sides else None
    reached: dict[str, list[tuple[float, int] | None]] = {side: [] for side in given.sides}
    for seed in given.seeds:
        for side in given.sides:
            epochs = (
                of_history(train_cxr(given, words, folder, seed=seed))
                if side == "cxr"
                else list(ask_fastai(given, table, seed))
            )
            reached[side].append(first_above(epochs))
            shown = ", ".join(f"{auroc:.4f} after {seconds:.0f} s" for seconds, auroc in epochs)
            print(f"seed {seed}, {side}: {shown}", file=sys.stderr, flush=True)

    print("| seed | " + " | ".join(f"{side}, s | epochs" for side in given.sides) + " | times shorter |")
    print("|---:|" + "---:|---:|" * len(given.sides) + "---:|")
    ratios = []
    for number, seed in enumerate(given.seeds):
        both = [reached[side][number] for side in given.sides]
        cells = ["not reached | -" if each is None else f"{each[0]:.1f} | {each[1]}" for each in both]
        ratio = None
        if len(both) == 2 and both[0] is not None and both[1] is not None:
            ratio = both[1][0] / both[0][0]
            ratios.append(ratio)
        print(f"| {seed} | {' | '.join(cells)} | {'-' if ratio is None else f'{ratio:.2f}'} |")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "timm", "fastai"))
    print(f"\nvalidation AUROC of {TARGET}; {NETWORK}; {os.cpu_count()} cores, {versions}")
    print(f"cxr: {' '.join([*CXR, *words])}")
    print("fastai: " + ", ".join(f"{name}={getattr(given, f'fastai_{name}')}" for name in FASTAI))
    if len(ratios) < len(given.seeds) or len(given.sides) < 2:
        return 1
    print(f"median {statistics.median(ratios):.2f} times shorter, wanted: at least {WANTED}")
    return 0 if statistics.median(ratios) >= WANTED else 1


def first_above(epochs: list[tuple[float, float]]) -> tuple[float, int] | None:
    """Seconds and number of the first epoch that reaches the target."""
    return next(((seconds, n) for n, (seconds, auroc) in enumerate(epochs, 1) if auroc >= TARGET), None)


def train_cxr(given: argparse.Namespace, words: list[str], folder: Path, *, seed: int) -> Path:
    """Run train.py; the run directory."""
    output = Path(tempfile.mkdtemp(dir=folder))
    command = [*SAME, *CXR, *words, f"seed={seed}", f"paths.data={given.data.absolute()}", f"paths.output={output}"]
    done = subprocess.run(
        [sys.executable, "train.py", *command, f"paths.cache={folder}/cache"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"train.py {' '.join(command)}: ended with status {done.returncode}\n{done.stdout[-3000:]}")
    return next(output.glob("*/*/history.csv")).parent


def of_history(run: Path) -> list[tuple[float, float]]:
    """Seconds since the first step, and validation AUROC, of each epoch."""
    rows = csv.DictReader((run / "history.csv").open(encoding="utf-8"))
    return [(float(row["seconds"]), float(row["val/auroc"])) for row in rows]


def write_pictures(run: Path, data: Path, size: int, folder: Path) -> Path:
    """The training and validation images of a run, prepared, as PNG files; a table of them: image, label, is_valid."""
    from PIL import Image

    from cxr.images.decode import read_grey
    from cxr.images.prepare import Preparation

    target = folder / "pictures"
    target.mkdir()
    table = folder / "pictures.csv"
    with (run / "split.csv").open(encoding="utf-8") as records, table.open("w", newline="", encoding="utf-8") as rows:
        writer = csv.writer(rows)
        writer.writerow(("image", "label", "is_valid"))
        for number, row in enumerate(csv.DictReader(records)):
            if row["split"] in ("train", "val"):
                pixels = Preparation(size).apply(read_grey(data / "chest_xray" / row["image"]))
                Image.fromarray(pixels).save(target / f"{number}.png")
                writer.writerow((f"{number}.png", row["label"], row["split"] == "val"))
    return table


def ask_fastai(given: argparse.Namespace, table: Path | None, seed: int) -> list[tuple[float, float]]:
    options: dict[str, Any] = {"--data": given.data, "--side": "fastai", "--table": table, "--seeds": seed}
    options |= {f"--fastai-{name.replace('_', '-')}": getattr(given, f"fastai_{name}") for name in FASTAI}
    child = ChildProcess("fastai", __file__, options)
    epochs = child.last
    child.end()
    return [(seconds, auroc) for seconds, auroc in epochs]


# ------------------------------------------------------------------------------------------------------- in a child


def train_fastai(given: argparse.Namespace) -> None:
    answer = answers_alone()
    import time

    import pandas as pd
    import timm
    import torch
    from fastai.vision.all import (
        Callback,
        CancelFitException,
        CrossEntropyLossFlat,
        ImageDataLoaders,
        Learner,
        Normalize,
        RocAucBinary,
        aug_transforms,
        imagenet_stats,
        set_seed,
    )

    epochs: list[tuple[float, float]] = []

    class Clock(Callback):  # type: ignore[misc]
        """Seconds and AUROC after every epoch; the end where the AUROC is reached."""

        order = 100  # after the recorder

        def before_fit(self) -> None:
            self.begin = time.perf_counter()

        def after_epoch(self) -> None:
            epochs.append((time.perf_counter() - self.begin, float(self.learn.recorder.values[-1][-1])))
            if epochs[-1][1] >= TARGET:
                raise CancelFitException

    set_seed(given.seeds[0])
    loaders = ImageDataLoaders.from_df(
        pd.read_csv(given.table),
        given.table.parent / "pictures",
        valid_col="is_valid",
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)],
        bs=given.fastai_batch_size,
        num_workers=given.fastai_workers,
        device=torch.device("cpu"),
    )
    network = timm.create_model(NETWORK, num_classes=2)
    learner = Learner(loaders, network, loss_func=CrossEntropyLossFlat(), metrics=RocAucBinary(), cbs=[Clock()])
    learner.fit_one_cycle(given.fastai_epochs, given.fastai_lr)
    answer(epochs)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
