"""How long does a radiograph take in an evaluation on a CPU, against plain eager ``model(x)``?

    uv run python benchmarks/inference.py
    uv run python benchmarks/inference.py --sizes 64 --images 16 --rounds 1

Both sides have the same ResNet-50 with random weights and the same drawn images. cxr runs what evaluate.py runs: the
tuned allocator, uint8 pixels that are normalised on the way, the network fused and channels-last in ``inference_mode``.
The other runs ``model(x)`` on pixels that are normalised beforehand, as it comes: contiguous, with gradients enabled,
plain allocator; nothing of cxr but the weights is in it.

Each side has a process of its own for each image size; they take turns, and the one whose turn it is not waits. A turn
is all of the images, in batches. The first turn of each batch size warms up. Given are medians over the turns, and of
the ratio within each turn. Wanted: at least 1.5 times faster at 512, probabilities equal to 1e-5. The batch norms have
random weights too and hold the statistics of the images, so that all of the network takes part in the probabilities;
how far these reach from image to image is printed beside their largest difference. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from child_process import ChildProcess

REQUIRED = {512: 1.5}
TOLERANCE = 1e-5

Turn = dict[str, Any]
Forward = Callable[[int, int], Any]


def main() -> int:
    given = read_arguments()
    if given.side is not None:
        SIDES[given.side](given)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        given.weights = Path(folder) / "weights.pt"
        return compare(given)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512], help="side of the images, pixels")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--images", type=int, default=16, help="images of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side; one more warms up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backbone", default="resnet50", help="for trials: any that timm has")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if any(given.images % batch_size for batch_size in given.batch_sizes):
        parser.error(f"--images {given.images}: not a multiple of every batch size {given.batch_sizes}")
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give at least 1")
    return given


def compare(given: argparse.Namespace) -> int:
    print(
        f"{given.backbone}, {given.images} images a turn, {given.rounds} rounds, {given.threads} threads on "
        f"{os.cpu_count()} cores; milliseconds per image: median (lowest-highest)\n"
    )
    print("| image side | batch | cxr | eager | ratio | wanted | largest difference | probabilities |")
    print("|---:|---:|---:|---:|---:|---|---:|---|", flush=True)
    missed = False
    for size in given.sizes:
        weights = start("weights", given, size)
        weights.end()
        spread = weights.last["spread"]
        sides = {name: start(name, given, size) for name in ("cxr", "eager")}
        for batch_size in given.batch_sizes:
            turns: dict[str, list[Turn]] = {name: [] for name in sides}
            for number in range(given.rounds + 1):
                for name, side in sides.items():
                    turn: Turn = side.ask(str(batch_size))
                    if number > 0:
                        turns[name].append(turn)
            cxr, eager = ([turn["ms_per_image"] for turn in turns[name]] for name in sides)
            # A ratio within each turn: a machine that slows down slows down both.
            ratio = statistics.median(b / a for a, b in zip(cxr, eager, strict=True))
            difference = max(
                abs(one - other)
                for a, b in zip(turns["cxr"], turns["eager"], strict=True)
                for one, other in zip(a["probabilities"], b["probabilities"], strict=True)
            )
            missed = missed or ratio < REQUIRED.get(size, 0) or not difference <= TOLERANCE
            wanted = f"at least {REQUIRED[size]}" if size in REQUIRED else "-"
            print(  # at once: what an interrupted run has measured is not lost
                f"| {size} | {batch_size} | {around(cxr)} | {around(eager)} | {ratio:.2f} | {wanted} "
                f"| {difference:.1e} | {spread[0]:.3f}-{spread[1]:.3f} |",
                flush=True,
            )
        for side in sides.values():
            side.end()
    return 1 if missed else 0


def around(costs: list[float]) -> str:
    return f"{statistics.median(costs):.0f} ({min(costs):.0f}-{max(costs):.0f})"


def start(name: str, given: argparse.Namespace, size: int) -> ChildProcess:
    options = {
        "--sizes": size,
        "--images": given.images,
        "--batch-sizes": 1,
        "--threads": given.threads,
        "--backbone": given.backbone,
        "--weights": given.weights,
        "--side": name,
    }
    return ChildProcess(name, __file__, options)


# ------------------------------------------------------------------------------------------------------- in a child


def serve(given: argparse.Namespace, forward: Forward) -> None:
    """Answer each batch size that comes in with the time of a turn and what it gave."""
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        batch_size = int(line)
        begin = time.perf_counter()
        answers = [forward(start, start + batch_size) for start in range(0, given.images, batch_size)]
        seconds = time.perf_counter() - begin
        probabilities = [value for answer in answers for value in answer.flatten().tolist()]
        print(json.dumps({"ms_per_image": 1e3 * seconds / given.images, "probabilities": probabilities}), flush=True)


def draw_images(given: argparse.Namespace) -> Any:
    """uint8 (N, 1, S, S): noise under soft gradients, as different from each other as radiographs are."""
    import torch

    generator = torch.Generator().manual_seed(0)
    size = given.sizes[0]
    soft = torch.nn.functional.interpolate(
        torch.rand(given.images, 1, 6, 6, generator=generator), size=(size, size), mode="bilinear"
    )
    noise = torch.rand(given.images, 1, size, size, generator=generator)
    return (255 * (0.8 * soft + 0.2 * noise)).to(torch.uint8)


def make_weights(given: argparse.Namespace) -> None:
    import timm
    import torch

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = timm.create_model(given.backbone, num_classes=2, pretrained=False)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # averages over all that passes: here, one batch
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.uniform_(part.bias, -0.5, 0.5)
    images = draw_images(given)
    with torch.no_grad():
        model(normalised(model, images))
        probabilities = model.eval()(normalised(model, images)).softmax(dim=1)[:, 0]
    torch.save(model.state_dict(), given.weights)
    print(json.dumps({"spread": [float(probabilities.min()), float(probabilities.max())]}), flush=True)


def normalised(model: Any, images: Any) -> Any:
    import torch

    mean, std = (torch.tensor(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    return ((images.float() / 255 - mean) / std).contiguous()


def run_cxr(given: argparse.Namespace) -> None:
    from cxr.allocator import tune_allocator

    tune_allocator()  # as evaluate.py does, before torch is imported
    import torch

    from cxr.training.module import CXRModule

    torch.set_num_threads(given.threads)
    module = CXRModule(
        given.backbone,
        class_names=["a", "b"],
        positive="a",
        image_size=given.sizes[0],
        pretrained=False,
        weights=str(given.weights),
    ).eval()
    images = draw_images(given)

    def forward(start: int, stop: int) -> Any:
        with torch.inference_mode():
            return module(images[start:stop]).float().softmax(dim=1)

    with module.fused():
        serve(given, forward)


def run_eager(given: argparse.Namespace) -> None:
    import timm
    import torch

    torch.set_num_threads(given.threads)
    model = timm.create_model(given.backbone, num_classes=2, pretrained=False)
    model.load_state_dict(torch.load(given.weights, weights_only=True))
    model.eval()
    pixels = normalised(model, draw_images(given))
    serve(given, lambda start, stop: model(pixels[start:stop]).softmax(dim=1).detach())


SIDES: dict[str, Callable[[argparse.Namespace], None]] = {
    "cxr": run_cxr,
    "eager": run_eager,
    "weights": make_weights,
}

if __name__ == "__main__":
    sys.exit(main())
