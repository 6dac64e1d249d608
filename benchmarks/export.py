"""How long does a radiograph take in ONNX Runtime on a CPU, against PyTorch?

    uv run python benchmarks/export.py
    uv run python benchmarks/export.py --size 64 --backbone resnet10t --images 16 --rounds 1

All sides have the same ResNet-50 with random weights and the same drawn images, see `benchmarks/inference.py`:

- onnxruntime: the file that ``python -m cxr.export`` writes, uint8 pixels in, calibrated probabilities out; neither
  PyTorch nor cxr is imported
- eager: ``model(x)`` of timm in ``inference_mode``, as it comes, on pixels that are normalised beforehand
- channels-last: the same with weights and pixels laid out channels-last
- fused: what evaluate.py runs, with the tuned allocator, normalisation included

Each side has a process of its own; they take turns, and those whose turn it is not wait. A turn is all of the images,
in batches. The first turn of each batch size warms up. Given are medians over the turns, and of the ratios within each
turn. Wanted against eager at 512: at least 1.5 times faster for one image, 2.3 times for sixteen, and probabilities
equal to 1e-4. Leave the machine alone meanwhile.
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
from inference import around, draw_images, make_weights, normalised

REQUIRED = {1: 1.5, 16: 2.3}  # at 512
TOLERANCE = 1e-4

Turn = dict[str, Any]
Forward = Callable[[int, int], Any]


def main() -> int:
    given = read_arguments()
    if given.side is not None:
        SIDES[given.side](given)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        given.weights = Path(folder) / "weights.pt"
        for name in ("weights", "onnx"):
            start(name, given).end()
        return compare(given)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the images, pixels")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--images", type=int, default=16, help="images of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side; one more warms up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backbone", default="resnet50", help="for trials: any that timm has")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.sizes = [given.size]  # as the parts of benchmarks/inference.py want it
    if any(given.images % batch_size for batch_size in given.batch_sizes):
        parser.error(f"--images {given.images}: not a multiple of every batch size {given.batch_sizes}")
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give at least 1")
    return given


def compare(given: argparse.Namespace) -> int:
    print(
        f"{given.backbone} at {given.size}, {given.images} images a turn, {given.rounds} rounds, {given.threads} "
        f"threads on {os.cpu_count()} cores; milliseconds per image: median (lowest-highest)\n"
    )
    others = ("eager", "channels-last", "fused")
    print(f"| batch | onnxruntime | {' | '.join(f'{name} | times faster' for name in others)} | wanted | difference |")
    print("|---:|---:|" + "---:|---:|" * len(others) + "---|---:|", flush=True)
    sides = {name: start(name, given) for name in ("onnxruntime", *others)}
    missed = False
    for batch_size in given.batch_sizes:
        turns: dict[str, list[Turn]] = {name: [] for name in sides}
        for number in range(given.rounds + 1):
            for name, side in sides.items():
                turn: Turn = side.ask(str(batch_size))
                if number > 0:
                    turns[name].append(turn)
        cost = {name: [turn["ms_per_image"] for turn in each] for name, each in turns.items()}
        # A ratio within each turn: a machine that slows down slows down all.
        ratios = {
            name: statistics.median(b / a for a, b in zip(cost["onnxruntime"], cost[name], strict=True))
            for name in others
        }
        difference = max(
            abs(one - other)
            for a, b in zip(turns["onnxruntime"], turns["eager"], strict=True)
            for one, other in zip(a["probabilities"], b["probabilities"], strict=True)
        )
        wanted = REQUIRED.get(batch_size) if given.size == 512 else None
        missed = missed or ratios["eager"] < (wanted or 0) or not difference <= TOLERANCE
        cells = " | ".join(f"{around(cost[name])} | {ratios[name]:.2f}" for name in others)
        told = "-" if wanted is None else f"at least {wanted} (eager)"
        print(  # at once: what an interrupted run has measured is not lost
            f"| {batch_size} | {around(cost['onnxruntime'])} | {cells} | {told} | {difference:.1e} |", flush=True
        )
    for side in sides.values():
        side.end()
    return 1 if missed else 0


def start(name: str, given: argparse.Namespace) -> ChildProcess:
    options = {
        "--size": given.size,
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


def make_onnx(given: argparse.Namespace) -> None:
    """The file as an export writes it, and the images for a process that has no PyTorch."""
    import numpy as np

    from cxr.evaluation.calibration.calibration import Calibration
    from cxr.evaluation.export.description import ModelDescription, Normalisation
    from cxr.evaluation.export.onnx_file import write_onnx
    from cxr.images.prepare import Preparation

    module = build_module(given)
    names = tuple(module.class_names)
    scale, offset = (tuple(each.tolist()) for each in (module.pixel_scale, module.pixel_offset))
    description = ModelDescription(
        cxr_version="0",
        backbone=given.backbone,
        class_names=names,
        positive=names[0],
        preparation=Preparation(given.size),
        normalisation=Normalisation(scale, offset),
        calibration=Calibration("temperature", names, temperature=1.0),
        operating_points=(),
        fitted_on=None,
        training_images={},
        epoch=0,
        checkpoint_sha256="0" * 64,
    )
    write_onnx(module, description, given.weights.with_suffix(".onnx"), opset=18)
    np.save(given.weights.with_suffix(".npy"), draw_images(given).numpy())
    print(json.dumps({}), flush=True)


def build_module(given: argparse.Namespace) -> Any:
    from cxr.training.module import CXRModule

    return CXRModule(
        given.backbone,
        class_names=["a", "b"],
        positive="a",
        image_size=given.size,
        pretrained=False,
        weights=str(given.weights),
    ).eval()


def run_onnxruntime(given: argparse.Namespace) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given.threads
    session = onnxruntime.InferenceSession(
        str(given.weights.with_suffix(".onnx")), options, providers=["CPUExecutionProvider"]
    )
    images = np.load(given.weights.with_suffix(".npy"))
    serve(given, lambda start, stop: session.run(["probabilities"], {"image": images[start:stop]})[0])


def run_eager(given: argparse.Namespace, *, channels_last: bool = False) -> None:
    import timm
    import torch

    torch.set_num_threads(given.threads)
    model = timm.create_model(given.backbone, num_classes=2, pretrained=False)
    model.load_state_dict(torch.load(given.weights, weights_only=True))
    model.eval()
    pixels = normalised(model, draw_images(given))
    if channels_last:
        model, pixels = (each.to(memory_format=torch.channels_last) for each in (model, pixels))

    def forward(start: int, stop: int) -> Any:
        with torch.inference_mode():
            return model(pixels[start:stop]).softmax(dim=1)

    serve(given, forward)


def run_channels_last(given: argparse.Namespace) -> None:
    run_eager(given, channels_last=True)


def run_fused(given: argparse.Namespace) -> None:
    from cxr.allocator import tune_allocator

    tune_allocator()  # as evaluate.py does, before torch is imported
    import torch

    torch.set_num_threads(given.threads)
    module, images = build_module(given), draw_images(given)

    def forward(start: int, stop: int) -> Any:
        with torch.inference_mode():
            return module(images[start:stop]).float().softmax(dim=1)

    with module.fused():
        serve(given, forward)


SIDES: dict[str, Callable[[argparse.Namespace], None]] = {
    "onnxruntime": run_onnxruntime,
    "eager": run_eager,
    "channels-last": run_channels_last,
    "fused": run_fused,
    "weights": make_weights,
    "onnx": make_onnx,
}

if __name__ == "__main__":
    sys.exit(main())
