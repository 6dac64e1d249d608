"""How many images per second does a training epoch take on a GPU, against the bare network and against fastai?

    uv run --group benchmark python benchmarks/gpu.py
    uv run python benchmarks/gpu.py --device cpu --backbone resnet18 --sizes 64 --images 16 --batch-size 4 --rounds 1

Four sides train a ResNet-50 from random weights on the same drawn radiographs, which are written as PNG files:

- *cxr*: what train.py runs: CXRDataModule on prepared images with `fastai_v1`, CXRModule, Trainer, CSV logger;
- *cxr, compiled*: the same with model.compile=true; the compiling lies in the turn that warms up;
- *network alone*: the same network, loss, optimizer, schedule and precision in a loop written by hand, on normalised
  batches that lie ready on the device: what nobody can go below;
- *fastai*: `vision_learner` with `Resize`, `aug_transforms`, `Normalize` and `to_fp16`, from the files, with the loader
  processes that it chooses itself. It stands beside 16-mixed only, and is left out where it is not installed.

Each has a process of its own for each size and precision; they take turns, an epoch each. The first warms up. Given are
medians over the rounds, and of the ratio within each round. Training alone counts; validation and cxr's two checkpoints
are timed apart. Labels are made up. Memory is the most that torch had allocated on the device. Inference is the
normalisation and the network without gradients, on uint8 images that lie ready on the device.
Wanted at batch 32 and 512 px: at least 0.95 of the network alone, at least 4 times fastai. With `--device cpu`, a trial
of the program itself in float32, nothing is judged. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from child_process import ChildProcess, Stopwatch, answers_alone, resident_peak

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"
JUDGED = (512, 32)  # image side and batch size
OF_NETWORK, OF_FASTAI = 0.95, 4.0
LR = 1e-3
NUM_READY = 8  # different batches that lie on the device
# Only these are drawn; the rest are the same pictures moved, because drawing takes longer than all that is measured.
NUM_DRAWN = 256

Turn = dict[str, float]


def main() -> int:
    given = read_arguments()
    if given.side is not None:
        SIDES[given.side](given)
        return 0
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device; --device cpu tries the program itself", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        given.table = Path(folder) / "images.csv"
        write_files(given)
        return compare(given)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 224], help="side of the images, pixels")
    parser.add_argument("--precisions", nargs="+", default=["16-mixed", "bf16-mixed"])
    parser.add_argument("--images", type=int, default=2048, help="training images; an eighth as many validate")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; one more warms up")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--file-size", type=int, default=512, help="longer side of the files, pixels")
    parser.add_argument("--backbone", default="resnet50", help="any that timm and fastai both have")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a trial that proves nothing")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.images < 8 or given.images % given.batch_size or given.rounds < 1:
        parser.error(f"--images {given.images}: give a multiple of --batch-size, from 8; --rounds: at least 1")
    if given.device == "cpu":
        given.precisions = ["32-true"]
    return given


def write_files(given: argparse.Namespace) -> None:
    """Drawn radiographs, every file another: image, label, split."""
    import numpy as np
    from PIL import Image

    from cxr.sources import phantom

    folder, wanted = given.table.parent / "images", given.images + given.images // 8
    folder.mkdir()
    drawn = phantom.read(
        "drawn",
        cache_dir=given.table.parent,
        num_patients=min(NUM_DRAWN, wanted),
        images_per_patient=1.0,
        size=given.file_size,
        progress=False,
    ).records["path"]

    def write(number: int) -> None:
        with Image.open(drawn[number % len(drawn)]) as image:
            moved = np.roll(np.asarray(image), number // len(drawn), axis=1)
        Image.fromarray(moved).save(folder / f"{number}.png", compress_level=1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(wanted)))
    with given.table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "label", "split"))
        for number in range(wanted):
            writer.writerow((f"{number}.png", "ab"[number % 2], "train" if number < given.images else "val"))


def compare(given: argparse.Namespace) -> int:
    has_fastai = importlib.util.find_spec("fastai") is not None
    training, inference, missed = [], [], False
    for size in given.sizes:
        for precision in given.precisions:
            names = ["cxr", "compiled", "network"]
            if has_fastai and precision != "bf16-mixed":
                names.append("fastai")
            turns, speed = take_turns(given, size, precision, names)
            speeds = {name: [given.images / turn["train"] for turn in turns[name]] for name in names}
            ratios = {name: ratio(speeds["cxr"], speeds[name]) for name in names[1:]}
            if given.device == "cuda" and (size, given.batch_size) == JUDGED:
                missed |= ratios["network"] < OF_NETWORK or ratios.get("fastai", OF_FASTAI) < OF_FASTAI
            fastai = (spread(speeds["fastai"]), f"{ratios['fastai']:.2f}") if "fastai" in names else ("-", "-")
            peaks = " / ".join(f"{turns[name][-1]['peak_mb']:.0f}" for name in names)
            extra = (statistics.median(turn[key] for turn in turns["cxr"]) for key in ("val", "checkpoints"))
            training.append(
                f"| {size} | {precision} | {spread(speeds['cxr'])} | {spread(speeds['compiled'])} "
                f"| {1 / ratios['compiled']:.3f} | {spread(speeds['network'])} "
                f"| {ratios['network']:.3f} | {fastai[0]} | {fastai[1]} | {peaks} "
                f"| {' / '.join(f'{seconds:.2f}' for seconds in extra)} |"
            )
            inference.append(f"| {size} | {precision} | {4 * given.batch_size} | {spread(speed)} |")
    print(f"{given.backbone}, batch {given.batch_size}, {given.images} images an epoch from files of {given.file_size} "
          f"px, {given.rounds} rounds; {machine(given.device)}\n")  # fmt: skip
    print(
        "| image side | precision | cxr, images/s | compiled | compiled / cxr | network alone | cxr / network | fastai "
        "| cxr / fastai | peak MB: cxr / compiled / network (/ fastai) | cxr: validation / checkpoints, s |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|---|---|\n" + "\n".join(training))
    print("\n| image side | precision | batch | inference, images/s |\n|---:|---|---:|---:|\n" + "\n".join(inference))
    if not has_fastai:
        print("\nfastai is not installed and was left out: uv run --group benchmark python benchmarks/gpu.py")
    if given.device == "cpu":
        print("\nA trial on the CPU: it proves nothing, and no bound was judged.")
    elif (JUDGED[0] not in given.sizes) or given.batch_size != JUDGED[1]:
        print(f"\nNo bound was judged: they are for {JUDGED[0]} px and batch {JUDGED[1]}.")
    else:
        print(f"\nWanted at {JUDGED[0]} px: cxr / network at least {OF_NETWORK}, cxr / fastai at least {OF_FASTAI}: "
              f"{'MISSED' if missed else 'met'}")  # fmt: skip
    return 1 if missed else 0


def take_turns(
    given: argparse.Namespace, size: int, precision: str, names: list[str]
) -> tuple[dict[str, list[Turn]], list[float]]:
    """Side -> what each of its turns took, the first left out; and images per second of inference."""

    def start(name: str) -> ChildProcess:
        options = {"--sizes": size, "--precisions": precision, "--side": name}
        kept = ("images", "batch_size", "file_size", "backbone", "device", "table")
        options |= {f"--{key.replace('_', '-')}": getattr(given, key) for key in kept}
        return ChildProcess(name, __file__, options | {"--rounds": given.rounds + 1})

    with ThreadPoolExecutor() as pool:  # they start side by side, for importing takes long
        sides = dict(zip(names, pool.map(start, names), strict=True))
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    speed = []
    for number in range(given.rounds + 1):
        for name, side in sides.items():
            turn = side.ask("train")
            if number > 0:
                turns[name].append(turn)
        seconds = sides["network"].ask("infer")["seconds_per_image"]
        if number > 0:
            speed.append(1 / seconds)
    for side in sides.values():
        side.end()
    return turns, speed


def ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def machine(device: str) -> str:
    import torch

    names = ["torch", "pytorch-lightning", "timm", "fastai"]
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if device == "cuda":
        driver = "unknown"
        if shutil.which("nvidia-smi"):
            asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(asked, capture_output=True, text=True).stdout.split("\n")[0] or driver
        cuda = f"{torch.cuda.get_device_name(0)}, driver {driver}, CUDA {torch.version.cuda}"
        versions = [cuda, f"cuDNN {torch.backends.cudnn.version()}", *versions]
    return ", ".join([f"{os.cpu_count()} cores", *versions])


# ------------------------------------------------------------------------------------------------------- in a child


def make_stopwatch(device: str) -> Stopwatch:
    import torch

    if device == "cpu":
        return Stopwatch(answers_alone(), resident_peak)
    return Stopwatch(answers_alone(), lambda: torch.cuda.max_memory_allocated() / 2**20, torch.cuda.synchronize)


def train_cxr(given: argparse.Namespace) -> None:
    from cxr.allocator import tune_allocator

    tune_allocator()  # as train.py does, before torch is imported
    import pytorch_lightning as pl
    import yaml

    from cxr.pipeline.datamodule import CXRDataModule
    from cxr.training.module import CXRModule
    from cxr.training.run_directory import RunDirectory
    from cxr.training.tracking import build_logger, finish
    from cxr.training.trainer import build_trainer

    watch = make_stopwatch(given.device)

    class Hold(pl.callbacks.Checkpoint):
        """The first of the checkpoint callbacks, which Lightning calls when all else of an epoch is done."""

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch > 0:
                watch.tell()
            watch.wait()

        # Not after each batch: the mark waits for the device.
        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            watch.mark("trained")

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            watch.mark("validated")

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            watch.mark("end")

        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            watch.tell()

    folder, size = given.table.parent, given.sizes[0]
    data = CXRDataModule(
        {"files": {"kind": "table", "root": str(given.table), "images": str(folder / "images")}},
        cache_dir=folder / "cache",
        image_size=size,
        batch_size=given.batch_size,
        split={"kind": "predefined"},
        augment=yaml.safe_load((CONF_DIR / "augment" / "fastai_v1.yaml").read_text(encoding="utf-8")),
        progress=False,
    )
    data.setup("fit")
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
    if given.side == "compiled":
        module.network.compile()
    run = RunDirectory.create(folder, given.side)
    logger = build_logger("csv", tracking_dir=run.tracking_dir, config={}, name="benchmark")
    trainer = build_trainer(
        run_dir=run,
        max_epochs=given.rounds,
        gpus=1 if given.device == "cuda" else 0,
        precision=given.precisions[0],
        logger=logger,
    )
    trainer.callbacks.insert(0, Hold())  # type: ignore[attr-defined]
    watch.answer({})
    trainer.fit(module, data)
    finish(logger, 0)


def train_network(given: argparse.Namespace) -> None:
    from cxr.allocator import tune_allocator

    tune_allocator()
    import torch

    from cxr.training.module import CXRModule
    from cxr.training.optimizers import build_optimizer, parameter_groups
    from cxr.training.schedules import StagedSchedule
    from cxr.training.stage_plan import build_stages

    watch, size, device, precision = make_stopwatch(given.device), given.sizes[0], given.device, given.precisions[0]
    torch.manual_seed(0)
    module = CXRModule(
        given.backbone, class_names=["a", "b"], positive="a", image_size=size, pretrained=False
    ).to(device)  # fmt: skip
    num_steps = given.images // given.batch_size
    optimizer = build_optimizer(parameter_groups(module.network, 0.01), lr=LR, fused=True)
    stages = build_stages([{"epochs": given.rounds}], lr=LR, schedule="one_cycle")
    schedule = StagedSchedule(optimizer, stages, num_steps)
    scaler = torch.amp.GradScaler(device, enabled=precision == "16-mixed")
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16

    def cast() -> torch.autocast:
        return torch.autocast(device, dtype, enabled=precision != "32-true")

    def greys(number: int) -> torch.Tensor:
        return torch.randint(0, 256, (number, 1, size, size), device=device, dtype=torch.uint8)

    ready = [module.normalised(greys(given.batch_size)[:, 0].float()) for _ in range(NUM_READY)]
    labels = torch.arange(given.batch_size, device=device) % 2
    unseen = greys(4 * given.batch_size)  # as CXRDataModule evaluates
    watch.answer({})
    for line in sys.stdin:
        watch.finish()
        begin = time.perf_counter()
        if line.strip() == "train":
            module.train()
            for step in range(num_steps):
                optimizer.zero_grad()
                with cast():
                    loss = module.training_loss(module.network(ready[step % NUM_READY]), labels)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
            watch.finish()
            watch.answer({"train": time.perf_counter() - begin, "peak_mb": watch.peak()})
        else:
            module.eval()
            num_batches = max(1, given.images // len(unseen))
            with torch.inference_mode(), cast():
                for _ in range(num_batches):
                    module(unseen)
            watch.finish()
            watch.answer({"seconds_per_image": (time.perf_counter() - begin) / (num_batches * len(unseen))})


def train_fastai(given: argparse.Namespace) -> None:
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

    watch = make_stopwatch(given.device)

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

    table = pd.read_csv(given.table)
    table["is_valid"] = table["split"] == "val"
    loaders = ImageDataLoaders.from_df(
        table,
        given.table.parent / "images",
        valid_col="is_valid",
        seed=0,
        item_tfms=Resize(given.sizes[0]),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)],
        bs=given.batch_size,
        device=torch.device(given.device),
    )
    learner = vision_learner(
        loaders, getattr(models, given.backbone), pretrained=False, n_out=2, metrics=accuracy, cbs=[Hold()]
    )
    if given.device == "cuda":
        learner = learner.to_fp16()
    watch.answer({})
    learner.fit_one_cycle(given.rounds, LR)


SIDES: dict[str, Callable[[argparse.Namespace], Any]] = {
    "cxr": train_cxr,
    "compiled": train_cxr,
    "network": train_network,
    "fastai": train_fastai,
}

if __name__ == "__main__":
    sys.exit(main())
