"""What does it cost to bring a training image to the network, from the prepared cache and from files with fastai?

    uv run --group benchmark python benchmarks/input_path.py --data <folder with covid-chestxray-dataset>

Both sides read the same files in batches, augment them like fastai 1 did (mirror image, rotation, zoom, warp,
brightness, contrast), and normalise them to three float channels; nothing is trained. Each side has a process of its
own with one thread and no loader processes; they take turns. Given are medians over the turns of the CPU time of the
process per image; page faults tell how much of it is the allocator's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

FASTAI_V1_PATH = Path(__file__).resolve().parents[1] / "conf" / "augment" / "fastai_v1.yaml"
ENOUGH = {224: 20.0, 512: 15.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds covid-chestxray-dataset")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512], help="side of the images, pixels")
    parser.add_argument("--images", type=int, default=96, help="how many files")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side; one more warms up")
    parser.add_argument("--side", choices=["cxr", "fastai"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    paths = sorted((given.data / "covid-chestxray-dataset" / "images").iterdir())
    paths = [path for path in paths if path.suffix.lower() in {".jpg", ".jpeg", ".png"}][: given.images]
    if not paths:
        print(f"{given.data}: holds no covid-chestxray-dataset/images", file=sys.stderr)
        return 2
    if given.side is not None:
        serve(given.side, paths, given.sizes[0], given.batch_size)
        return 0

    print("| image side | cxr, CPU ms per image | fastai, CPU ms per image | times cheaper | asked for | page faults |")
    print("|---|---|---|---|---|---|")
    for size in given.sizes:
        results = take_turns(size, given)
        costs = {side: [turn["cpu_ms"] for turn in turns] for side, turns in results.items()}
        ours, theirs = statistics.median(costs["cxr"]), statistics.median(costs["fastai"])
        # A ratio within each round: a machine that slows down slows down both.
        ratio = statistics.median(b / a for a, b in zip(costs["cxr"], costs["fastai"], strict=True))
        faults = [round(statistics.median(turn["faults"] for turn in results[side])) for side in ("cxr", "fastai")]
        print(
            f"| {size} | {ours:.2f} ({min(costs['cxr']):.2f}-{max(costs['cxr']):.2f}) "
            f"| {theirs:.1f} ({min(costs['fastai']):.1f}-{max(costs['fastai']):.1f}) "
            f"| {ratio:.1f} | {ENOUGH.get(size, '-')} | {faults[0]} against {faults[1]} per image |",
            flush=True,
        )
    return 0


def take_turns(size: int, given: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Side -> what each of its turns took."""
    options = ["--data", str(given.data), "--images", str(given.images), "--batch-size", str(given.batch_size)]
    workers = {
        side: subprocess.Popen(
            [sys.executable, __file__, *options, "--sizes", str(size), "--side", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in ("cxr", "fastai")
    }
    results: dict[str, list[dict[str, float]]] = {side: [] for side in workers}
    for turn in range(given.rounds + 1):
        for side, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
            if not answer:
                raise SystemExit(f"{side}: ended with status {worker.wait()}")
            if turn > 0:
                results[side].append(json.loads(answer))
    for worker in workers.values():
        worker.communicate()
    return results


def serve(side: str, paths: list[Path], size: int, batch_size: int) -> None:
    """Run an epoch whenever a line comes in, and answer with what an image took."""
    run_epoch = {"cxr": prepare_cxr, "fastai": prepare_fastai}[side](paths, size, batch_size)
    for _ in sys.stdin:
        cpu, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        num_images = sum(len(images) for images in run_epoch())
        cpu, faults = time.process_time() - cpu, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print(json.dumps({"cpu_ms": 1e3 * cpu / num_images, "faults": faults / num_images}), flush=True)


def prepare_cxr(paths: list[Path], size: int, batch_size: int) -> Callable[[], Iterable[Any]]:
    from cxr.allocator import tune_allocator

    tune_allocator()  # as train.py does
    import hashlib

    import numpy as np
    import torch
    from torch.utils.data import DataLoader

    from cxr.images.cache import prepare_images
    from cxr.images.prepare import Preparation
    from cxr.pipeline.augmentation import Augmentation
    from cxr.pipeline.batch_sampler import EpochBatches
    from cxr.pipeline.prepared_records import PreparedRecords
    from cxr.training.module import CXRModule

    torch.set_num_threads(1)
    folder = tempfile.TemporaryDirectory()
    fingerprints = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    images = prepare_images([str(path) for path in paths], fingerprints, Preparation(size), folder.name, progress=False)
    readable = np.flatnonzero(images.rows >= 0)
    labels = np.zeros(len(paths), np.int64)
    batches = EpochBatches(readable, labels[readable], batch_size, shuffle=True)
    loader = DataLoader(PreparedRecords(images, labels), sampler=batches, batch_size=None)
    augmentation = Augmentation(**yaml.safe_load(FASTAI_V1_PATH.read_text(encoding="utf-8")))
    module = CXRModule("resnet18", class_names=["a", "b"], positive="a", image_size=size, pretrained=False)
    module.network = torch.nn.Identity()  # what is left is the normalisation

    def run_epoch() -> Iterable[Any]:
        assert folder  # the prepared images live as long as this function
        batches.set_epoch(batches.epoch + 1)
        for batch in loader:
            changes = augmentation.draw(batch["index"].tolist(), seed=0, epoch=batches.epoch)
            yield module(augmentation.apply(batch["image"], changes))

    return run_epoch


def prepare_fastai(paths: list[Path], size: int, batch_size: int) -> Callable[[], Iterable[Any]]:
    import torch
    from fastai.vision.all import ImageDataLoaders, Normalize, Resize, aug_transforms, imagenet_stats

    torch.set_num_threads(1)
    loaders = ImageDataLoaders.from_lists(
        paths[0].parent,
        paths,
        ["a", "b"] * (len(paths) // 2) + ["a"] * (len(paths) % 2),
        valid_pct=0.01,
        seed=0,
        item_tfms=Resize(size),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)],
        bs=batch_size,
        num_workers=0,
        device=torch.device("cpu"),
    )

    def run_epoch() -> Iterable[Any]:
        for images, _ in loaders.train:
            yield images

    return run_epoch


if __name__ == "__main__":
    raise SystemExit(main())
