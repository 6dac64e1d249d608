"""What does a training step cost beyond the network itself?

Two comparisons, each interleaved, in process CPU time on one thread (which other work on the machine disturbs least):

1. *epoch*: a whole epoch of CXRDataModule, CXRModule and Trainer on drawn radiographs - reading, augmentation,
   normalisation, logging, epoch metrics - against the bare forward + backward + optimizer loop of the same network on
   the same batches, normalised beforehand. Wanted: at most 1.05.
2. *tax*: Trainer and CXRModule against a hand-written loop around the same module, on a tiny network and batches that
   lie in memory, with logging every 50 steps. Wanted: at most 2 ms a step.

    uv run benchmarks/step_overhead.py
    uv run benchmarks/step_overhead.py --backbone resnet18 --image-size 128 --num-batches 4 --rounds 2
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

from cxr.allocator import tune_allocator

tune_allocator()

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from cxr.pipeline.datamodule import CXRDataModule  # noqa: E402
from cxr.training.module import CXRModule  # noqa: E402
from cxr.training.optimizers import build_optimizer, parameter_groups  # noqa: E402
from cxr.training.run_directory import RunDirectory  # noqa: E402
from cxr.training.schedules import StagedSchedule  # noqa: E402
from cxr.training.stage_plan import build_stages  # noqa: E402
from cxr.training.tracking import build_logger, finish  # noqa: E402
from cxr.training.trainer import build_trainer  # noqa: E402

Batches = list[dict[str, Tensor]]
# Not counted: the first steps pay for what is done once.
NUM_WARMUP = 3
# The preset with every kind of change, so that the input path is not flattered.
FASTAI_V1_PATH = Path(__file__).resolve().parents[1] / "conf" / "augment" / "fastai_v1.yaml"


def make_data(num_batches: int, batch_size: int, image_size: int, folder: Path) -> CXRDataModule:
    """Drawn radiographs; a fifth more than are needed go to validation, which the comparison leaves out."""
    num_records = num_batches * batch_size
    source = {
        "kind": "phantom",
        "num_patients": round(num_records * 1.4),
        "images_per_patient": 1.0,
        "size": image_size,
    }
    return CXRDataModule(
        {"phantom": source},
        data_dir=folder,
        cache_dir=folder / "cache",
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        image_size=image_size,
        batch_size=batch_size,
        split={"val_fraction": 0.1, "test_fraction": 0.1},
        augment=yaml.safe_load(FASTAI_V1_PATH.read_text(encoding="utf-8")),
        progress=False,
    )


def make_tiny(num: int) -> Batches:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (2, 1, 32, 32), generator=generator).to(torch.uint8),
            "label": torch.tensor([0, 1]),
            "index": torch.tensor([2 * number, 2 * number + 1]),
        }
        for number in range(num)
    ]


def make_module(backbone: str, image_size: int) -> CXRModule:
    torch.manual_seed(0)
    return CXRModule(
        backbone, class_names=["covid", "other"], positive="covid", image_size=image_size, pretrained=False
    ).train()


class Stopwatch(pl.Callback):
    """CPU time at the end of the warm-up and at the end of the last step."""

    def __init__(self) -> None:
        self.begin = 0.0
        self.last_step = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        self.last_step = time.process_time()
        if trainer.global_step == NUM_WARMUP:
            self.begin = self.last_step


def by_trainer(
    backbone: str, image_size: int, num_batches: int, data: CXRDataModule | DataLoader[dict[str, Tensor]]
) -> tuple[float, float]:
    """Seconds of the steps after the warm-up, and of these with the end of the epoch."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = RunDirectory.create(folder, "benchmark")
        logger = build_logger("csv", tracking_dir=run.tracking_dir, config={}, name="benchmark")
        trainer = build_trainer(
            run_dir=run,
            max_epochs=1,
            gpus=0,
            log_every_n_steps=50,
            logger=logger,
            limit_train_batches=num_batches + NUM_WARMUP,
        )
        trainer.limit_val_batches = 0
        watch = Stopwatch()
        # Last, so that what the other callbacks do in a step is inside. Writing checkpoints is no part of a step.
        trainer.callbacks = [
            *(each for each in trainer.callbacks if not isinstance(each, pl.callbacks.Checkpoint)),
            watch,
        ]
        trainer.fit(make_module(backbone, image_size), data)
        end = time.process_time()
        finish(logger, 0)
    return watch.last_step - watch.begin, end - watch.begin


def by_hand(backbone: str, batches: Batches, image_size: int) -> float:
    """Seconds of the same steps in a loop around the same module, with its optimizer and schedule."""
    module = make_module(backbone, image_size)
    optimizer = build_optimizer(parameter_groups(module.network, 0.01), fused=True)
    schedule = StagedSchedule(optimizer, build_stages([{"epochs": 1}], lr=1e-3, schedule="one_cycle"), len(batches))
    begin = 0.0
    for number, batch in enumerate(batches):
        if number == NUM_WARMUP:
            begin = time.process_time()
        optimizer.zero_grad()
        loss = module.training_loss(module(batch["image"]), batch["label"])
        loss.backward()
        optimizer.step()
        schedule.step()
        if (number + 1) % 50 == 0:
            loss.item()
    return time.process_time() - begin


def bare(backbone: str, batches: Batches, image_size: int) -> float:
    """Seconds of forward, backward and optimizer on batches that are normalised beforehand."""
    module = make_module(backbone, image_size)
    network = module.network
    optimizer = build_optimizer(parameter_groups(network, 0.01), fused=True)
    ready = [
        (
            (each["image"] * module.pixel_scale.view(1, 3, 1, 1) + module.pixel_offset.view(1, 3, 1, 1)).contiguous(
                memory_format=torch.channels_last
            ),
            each["label"],
        )
        for each in batches
    ]
    begin = 0.0
    for number, (image, label) in enumerate(ready):
        if number == NUM_WARMUP:
            begin = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(network(image), label).backward()
        optimizer.step()
    return time.process_time() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-batches", type=int, default=10, help="counted steps of an epoch")
    parser.add_argument("--tax-steps", type=int, default=200, help="counted steps of the tiny network")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is reported")
    arguments = parser.parse_args()
    backbone, image_size, num_batches = arguments.backbone, arguments.image_size, arguments.num_batches
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)

    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(num_batches + NUM_WARMUP, arguments.batch_size, image_size, Path(folder))
        data.setup("fit")
        batches = [batch for batch, _ in zip(data.train_dataloader(), range(num_batches + NUM_WARMUP), strict=False)]
        assert len(batches) == num_batches + NUM_WARMUP
        for _ in range(arguments.rounds):
            alone = bare(backbone, batches, image_size)
            ratios.append(by_trainer(backbone, image_size, num_batches, data)[1] / alone)

    taxes, steps = [], []
    tiny = make_tiny(arguments.tax_steps + NUM_WARMUP)
    loader: DataLoader[dict[str, Tensor]] = DataLoader(tiny, batch_size=None)  # type: ignore[arg-type]
    for _ in range(2 * arguments.rounds + 1):
        hand = by_hand("test_resnet", tiny, 32) / arguments.tax_steps
        trainer = by_trainer("test_resnet", 32, arguments.tax_steps, loader)[0] / arguments.tax_steps
        taxes.append(1000 * (trainer - hand))
        steps.append(1000 * hand)

    what = f"{backbone}, {image_size} px, batch {arguments.batch_size}"
    ratio, tax = statistics.median(ratios), statistics.median(taxes)
    print("| measured | value | wanted |")
    print("|---|---|---|")
    print(f"| whole epoch / bare loop ({what}) | {ratio:.3f} | at most 1.05 |")
    print(f"| Trainer's tax on a step of {statistics.median(steps):.1f} ms | {tax:.2f} ms | at most 2 ms |")
    return 0 if ratio <= 1.05 and tax <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
