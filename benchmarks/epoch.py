"""How long does a whole epoch of training and validation take, against fastai on the same files?

    uv run --group benchmark python benchmarks/epoch.py --data <folder with covid-chestxray-dataset>
    uv run --group benchmark python benchmarks/epoch.py --data <folder> --sizes 224 --images 16 --rounds 1

Both sides train a ResNet-50 from random weights with one-cycle, and validate it after each epoch, on the same original
radiographs with the same batch size and number of threads. cxr runs what train.py runs, with the tuned allocator, the
`fastai_v1` augmentation and images that were prepared before; fastai runs `vision_learner` with `Resize`,
`aug_transforms` and `Normalize`, from the files: once as it comes, with the loader processes that it chooses itself (as
many as there are cores), and once without any, which suits few cores better. What is wanted is wanted against fastai as
it comes; the other is printed beside it. The network alone - forward, backward and AdamW on batches that lie ready in
memory; forward without gradients in batches of the size that cxr validates with - shows what all else costs; only in
validation can cxr go below it, because there it fuses the network.

Each side has a process of its own for each image size; they take turns, an epoch each, and those whose turn it is not
wait. The first epoch of each warms up. Given are medians of the wall time over the turns, and of the ratio within each
turn. Labels are made up: how long a step takes does not hang on them. cxr's checkpoints are timed apart, because
fastai writes none of its own accord. Loader processes are started anew in every epoch.
Wanted: in training 1.5 times faster at 224 and 1.15 times (better 1.4) at 512, in validation 2.2 times at 224. Leave
the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.metadata
import importlib.util
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from child_process import ChildProcess, Stopwatch, answers_alone

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"
REQUIRED = {("train", 224): 1.5, ("train", 512): 1.15, ("val", 224): 2.2}
AIM = {("train", 512): 1.4}
SUFFIXES = {".jpg", ".jpeg", ".png"}
FASTAI = {"fastai as it comes": None, "fastai, no loader processes": 0}
LR = 1e-3

Turn = dict[str, float]


def main() -> int:
    given = read_arguments()
    if given.side is not None:
        child(given)
        return 0
    if importlib.util.find_spec("fastai") is None:
        print(f"fastai is missing: uv run --group benchmark python {' '.join(sys.argv)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "images.csv"
        write_table(table, given.data / "covid-chestxray-dataset" / "images", given.images, given.val_images)
        return compare(given, table)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds covid-chestxray-dataset")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512], help="side of the images, pixels")
    parser.add_argument("--images", type=int, default=64, help="training images")
    parser.add_argument("--val-images", type=int, help="validation images; half as many as train if not given")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; one more warms up")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backbone", default="resnet50", help="for trials: any that timm and fastai both have")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fastai-workers", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.images < given.batch_size or given.images % given.batch_size:
        parser.error(f"--images {given.images}: fastai leaves out a last batch that is not full; "
                     f"give a multiple of {given.batch_size}")  # fmt: skip
    if given.val_images is None:
        given.val_images = given.images // 2
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give at least 1")
    return given


def write_table(table: Path, folder: Path, num_train: int, num_val: int) -> None:
    """Choose readable, different pictures from all over the folder: image (absolute), label, split."""
    from cxr.images.decode import read_grey
    from cxr.images.opening import UnreadableImageError

    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    wanted = num_train + num_val
    if len(paths) < wanted:
        raise SystemExit(f"{folder}: {wanted} images are wanted, it holds {len(paths)}")
    chosen: dict[str, Path] = {}
    stride = len(paths) // wanted
    for path in (path for offset in range(stride) for path in paths[offset::stride]):
        try:
            read_grey(path)  # also brings the file into the page cache
        except UnreadableImageError:
            continue
        chosen.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        if len(chosen) == wanted:
            break
    else:
        raise SystemExit(f"{folder}: {wanted} different readable images are wanted, it holds {len(chosen)}")
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "label", "split"))
        for number, path in enumerate(chosen.values()):
            # Spread evenly, so that both parts have the same mixture of files.
            validates = (number + 1) * num_val // wanted > number * num_val // wanted
            split, label = ("val" if validates else "train"), "ab"[number // 3 % 2]
            writer.writerow((path.name, label, split))


def compare(given: argparse.Namespace, table: Path) -> int:
    rows, notes, missed = [], [], False
    for size in given.sizes:
        turns = take_turns(given, table, size)
        peaks = ", ".join(f"{name} {turns[name][-1]['peak_mb']:.0f} MB" for name in turns)
        notes.append(
            f"{size} px: cxr's two checkpoints took {median(turns['cxr'], 'checkpoints'):.2f} s an epoch, not counted; "
            f"peak memory: {peaks}"
        )
        for phase, num_images in (("train", given.images), ("val", given.val_images)):
            costs = {side: [1e3 * turn[phase] / num_images for turn in turns[side]] for side in turns}
            floor = statistics.median(a / b for a, b in zip(costs["cxr"], costs["network alone"], strict=True))
            # A ratio within each turn: a machine that slows down slows down all.
            ratios = [
                statistics.median(b / a for a, b in zip(costs["cxr"], costs[side], strict=True)) for side in FASTAI
            ]
            required = REQUIRED.get((phase, size))
            missed = missed or (required is not None and ratios[0] < required)
            cells = [
                cell
                for side, ratio in zip(FASTAI, ratios, strict=True)
                for cell in (spread(costs[side]), f"{ratio:.2f}")
            ]
            rows.append(
                f"| {size} | {phase} | {num_images} | {spread(costs['network alone'])} | {spread(costs['cxr'])} "
                f"| {floor:.2f} | {' | '.join(cells)} "
                f"| {wanted(phase, size)} |"
            )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "fastai"))
    print(
        f"{given.backbone}, batch {given.batch_size}, {given.threads} threads on {os.cpu_count()} cores, "
        f"{given.rounds} rounds, {versions}; milliseconds per image\n"
    )
    print(
        "| image side | phase | images | network alone | cxr | to the network | "
        + " | ".join(f"{side} | ratio" for side in FASTAI)
        + " | wanted |"
    )
    print("|---:|---|---:|---:|---:|---:|" + "---:|---:|" * len(FASTAI) + "---|")
    print("\n".join(rows) + "\n")
    print("\n".join(f"- {note}" for note in notes))
    return 1 if missed else 0


def wanted(phase: str, size: int) -> str:
    required, aim = REQUIRED.get((phase, size)), AIM.get((phase, size))
    if required is None:
        return "-"
    return f"at least {required}" + (f", aim {aim}" if aim is not None else "")


def median(turns: list[Turn], name: str) -> float:
    return statistics.median(turn[name] for turn in turns)


def spread(costs: list[float]) -> str:
    return f"{statistics.median(costs):.0f} ({min(costs):.0f}-{max(costs):.0f})"


def take_turns(given: argparse.Namespace, table: Path, size: int) -> dict[str, list[Turn]]:
    """Side -> what each of its turns took; the first is left out."""
    sides = {"network alone": start("network", given, table, size), "cxr": start("cxr", given, table, size)}
    sides |= {name: start("fastai", given, table, size, num_workers) for name, num_workers in FASTAI.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(given.rounds + 1):
        for name, side in sides.items():
            turn: Turn = side.ask("go")
            if number > 0:
                turns[name].append(turn)
    for side in sides.values():
        side.end()
    return turns


def start(name: str, given: argparse.Namespace, table: Path, size: int, num_workers: int | None = None) -> ChildProcess:
    """A side that trains, an epoch whenever it is told to."""
    options = {
        "--data": given.data,
        "--sizes": size,
        "--images": given.images,
        "--val-images": given.val_images,
        "--rounds": given.rounds + 1,
        "--batch-size": given.batch_size,
        "--threads": given.threads,
        "--backbone": given.backbone,
        "--side": name,
        "--table": table,
    }
    if num_workers is not None:
        options["--fastai-workers"] = num_workers
    return ChildProcess(name, __file__, options)


# ------------------------------------------------------------------------------------------------------- in a child


def child(given: argparse.Namespace) -> None:
    SIDES[given.side](given, Stopwatch(answers_alone()))


def train_cxr(given: argparse.Namespace, watch: Stopwatch) -> None:
    from cxr.allocator import tune_allocator

    tune_allocator()  # as train.py does, before torch is imported
    import pytorch_lightning as pl
    import torch
    import yaml

    from cxr.pipeline.datamodule import CXRDataModule
    from cxr.training.module import CXRModule
    from cxr.training.run_directory import RunDirectory
    from cxr.training.tracking import build_logger, finish
    from cxr.training.trainer import build_trainer

    class Hold(pl.callbacks.Checkpoint):
        """The first of the checkpoint callbacks, which Lightning calls when all else of an epoch is done."""

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch > 0:
                watch.tell()
            watch.wait()

        def on_train_batch_end(self, *args: object) -> None:
            watch.mark("trained")

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            watch.mark("validated")

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            watch.mark("end")

        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            watch.tell()

    torch.set_num_threads(given.threads)
    size, folder = given.sizes[0], given.table.parent
    images = (given.data / "covid-chestxray-dataset" / "images").absolute()
    data = CXRDataModule(
        {"files": {"kind": "table", "root": str(given.table), "images": str(images)}},
        cache_dir=folder / "cache",
        image_size=size,
        batch_size=given.batch_size,
        split={"kind": "predefined"},
        augment=yaml.safe_load((CONF_DIR / "augment" / "fastai_v1.yaml").read_text(encoding="utf-8")),
        progress=False,
    )
    data.setup("fit")
    check_counts(given, *(int((data.records["split"] == split).sum()) for split in ("train", "val")))
    pl.seed_everything(0, verbose=False)
    module = CXRModule(
        given.backbone,
        class_names=data.class_names,
        positive=data.positive,
        image_size=size,
        pretrained=False,
        optimizer={"name": "adamw", "lr": LR},
        schedule={"name": "one_cycle"},
    )
    run = RunDirectory.create(folder, "run")
    logger = build_logger("csv", tracking_dir=run.tracking_dir, config={}, name="benchmark")
    trainer = build_trainer(run_dir=run, max_epochs=given.rounds, gpus=0, logger=logger)
    trainer.callbacks.insert(0, Hold())  # type: ignore[attr-defined]
    watch.answer({})
    trainer.fit(module, data)
    finish(logger, 0)


def train_network(given: argparse.Namespace, watch: Stopwatch) -> None:
    from cxr.allocator import tune_allocator

    tune_allocator()
    import torch
    from torch.nn import functional as F

    from cxr.training.backbones import create_backbone
    from cxr.training.optimizers import build_optimizer, parameter_groups

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    size, num_val = given.sizes[0], given.val_images
    network = create_backbone(given.backbone, num_classes=2, image_size=size, pretrained=False).network
    optimizer = build_optimizer(parameter_groups(network, 0.01), fused=True)

    def images(number: int) -> torch.Tensor:
        return torch.randn(number, 3, size, size).contiguous(memory_format=torch.channels_last)

    batch, labels = images(given.batch_size), torch.arange(given.batch_size) % 2
    val_batch = images(min(4 * given.batch_size, num_val))  # as in CXRDataModule
    watch.answer({})
    for _ in range(given.rounds):
        watch.wait()
        network.train()
        for _ in range(given.images // given.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(network(batch), labels).backward()
            optimizer.step()
        watch.mark("trained")
        network.eval()
        with torch.inference_mode():
            for first in range(0, num_val, len(val_batch)):
                network(val_batch[: num_val - first])
        watch.mark("validated")
        watch.mark("end")
        watch.tell()


def train_fastai(given: argparse.Namespace, watch: Stopwatch) -> None:
    import pandas as pd
    import torch
    from fastai.vision import models
    from fastai.vision.all import (
        Callback,
        ImageDataLoaders,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        imagenet_stats,
        vision_learner,
    )

    class Hold(Callback):  # type: ignore[misc]
        """The last of the callbacks, so that what the others do in an epoch is inside."""

        order = 100

        def before_epoch(self) -> None:
            watch.wait()

        def after_train(self) -> None:
            watch.mark("trained")

        def after_validate(self) -> None:
            watch.mark("validated")

        def after_epoch(self) -> None:
            watch.mark("end")
            watch.tell()

    torch.set_num_threads(given.threads)
    table = pd.read_csv(given.table)
    table["is_valid"] = table["split"] == "val"
    loaders = ImageDataLoaders.from_df(
        table,
        (given.data / "covid-chestxray-dataset" / "images").absolute(),
        valid_col="is_valid",
        seed=0,
        item_tfms=Resize(given.sizes[0]),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)],
        bs=given.batch_size,
        num_workers=given.fastai_workers,
        device=torch.device("cpu"),
    )
    check_counts(given, loaders.train.n, loaders.valid.n)
    learner = vision_learner(
        loaders, getattr(models, given.backbone), pretrained=False, n_out=2, metrics=accuracy, cbs=[Hold()]
    )
    watch.answer({})
    learner.fit_one_cycle(given.rounds, LR)


def check_counts(given: argparse.Namespace, num_train: int, num_val: int) -> None:
    wanted = (given.images, given.val_images)
    if (num_train, num_val) != wanted:
        raise SystemExit(f"{given.side}: {num_train} training and {num_val} validation images, not {wanted}")


SIDES: dict[str, Callable[[argparse.Namespace, Stopwatch], Any]] = {
    "network": train_network,
    "cxr": train_cxr,
    "fastai": train_fastai,
}

if __name__ == "__main__":
    sys.exit(main())
