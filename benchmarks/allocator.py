"""What does keeping freed memory save in page faults, and what does it cost in resident memory?

A bare training loop of a network runs in two fresh processes, one as it is and one after
`cxr.allocator.tune_allocator`. Page faults (``ru_minflt``) per step are deterministic, so other work on the machine
does not disturb them. Wanted: at most 8 % of the plain loop's. Resident memory is read every ten steps: it must not
grow.

    uv run benchmarks/allocator.py
    uv run benchmarks/allocator.py --backbone resnet18 --image-size 128 --num-steps 100
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Not counted: the first steps take memory for the first time either way.
NUM_WARMUP = 5
_EVERY = 10


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def loop(backbone: str, image_size: int, batch_size: int, num_steps: int, *, tuned: bool) -> dict[str, Any]:
    """Page faults and CPU seconds per step, and the resident memory along the way, MB."""
    if tuned:
        from cxr.allocator import tune_allocator

        if not tune_allocator():
            raise SystemExit("the allocator cannot be tuned here: the C library is not glibc")
    import torch

    from cxr.training.backbones import create_backbone

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = create_backbone(backbone, num_classes=2, image_size=image_size, pretrained=False).network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    image = torch.rand(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    label = torch.arange(batch_size) % 2
    faults, begin = 0, 0.0
    resident = []
    for step in range(NUM_WARMUP + num_steps):
        if step == NUM_WARMUP:
            faults, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
        if step >= NUM_WARMUP and (step - NUM_WARMUP) % _EVERY == 0:
            resident.append(resident_mb())
    seconds = time.process_time() - begin
    resident.append(resident_mb())
    return {
        "faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / num_steps,
        "seconds": seconds / num_steps,
        "resident": resident,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-steps", type=int, default=500)
    parser.add_argument("--child", choices=("plain", "tuned"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        measured = loop(
            arguments.backbone,
            arguments.image_size,
            arguments.batch_size,
            arguments.num_steps,
            tuned=arguments.child == "tuned",
        )
        print(json.dumps(measured))
        return 0

    results: dict[str, dict[str, Any]] = {}
    for kind in ("plain", "tuned"):
        command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
        results[kind] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    print(
        f"{arguments.backbone}, {arguments.image_size} px, batch {arguments.batch_size}, {arguments.num_steps} steps\n"
    )
    print("| allocator | page faults a step | CPU seconds a step | resident first | largest | last, MB |")
    print("|---|---|---|---|---|---|")
    for kind, measured in results.items():
        resident = measured["resident"]
        print(
            f"| {kind} | {measured['faults']:.0f} | {measured['seconds']:.3f} | {resident[0]:.0f} | {max(resident):.0f}"
            f" | {resident[-1]:.0f} |"
        )
    share = results["tuned"]["faults"] / results["plain"]["faults"]
    print(f"\nPage faults: {share:.1%} of the plain loop's (wanted: at most 8 %)")
    return 0 if share <= 0.08 else 1


if __name__ == "__main__":
    sys.exit(main())
