"""A training step of FedGKT's edge against one of the large network: what an edge is spared.

    python tests/benchmarks/step_time.py                    # ResNet-8 against ResNet-110, batches of 64
    python tests/benchmarks/step_time.py --large 56 --device cuda

Both networks take turns in one run; printed are the medians and the median ratio of a turn, beside that of
metered FLOPs. The claim (He et al., NeurIPS 2020): ResNet-8's step takes 3 % of ResNet-110's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.classifier import Classifier
from lightning_modules.resnet import resnet

CIFAR = (3, 32, 32)
Batch = tuple[torch.Tensor, torch.Tensor]


def stepper(depth: int, *, device: torch.device, lr: float = 0.01) -> Callable[[Batch], None]:
    """One SGD step of ResNet-`depth`, fp32, channels last on a CPU as the harness trains it."""
    torch.manual_seed(0)
    module = Classifier(resnet(depth, CIFAR, 10)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, fused=True)

    def step(batch: Batch) -> None:
        module.training_step(batch, 0).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[Batch], None], batch: Batch, *, device: torch.device) -> float:
    """Wall time of one step, its kernels finished."""
    started = time.perf_counter()
    step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def flops(step: Callable[[Batch], None], batch: Batch) -> int:
    """Of one step, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return int(counter.get_total_flops())


def main() -> None:
    """Print both medians, the ratio of times and that of FLOPs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", type=int, default=8)
    parser.add_argument("--large", type=int, default=110)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--out", type=Path, help="JSON for `harness claims`, e.g. results/bench/step_time.json"
    )
    args = parser.parse_args()
    if args.out and (args.small, args.large) != (8, 110):
        parser.error("--out is for the networks of the claim, ResNet-8 and ResNet-110")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    inputs = torch.randn(args.batch, *CIFAR, device=device).contiguous(memory_format=torch.channels_last)
    batch = (inputs, torch.arange(args.batch, device=device) % 10)
    steps = [stepper(depth, device=device) for depth in (args.small, args.large)]
    counted = [flops(step, batch) for step in steps]  # the first step warms up, too
    turns = [[seconds(step, batch, device=device) for step in steps] for _ in range(args.repeats)]
    small, large = (statistics.median(turn[side] for turn in turns) for side in (0, 1))
    ratio = statistics.median(turn[0] / turn[1] for turn in turns)
    print(f"ResNet-{args.small}: {1e3 * small:.1f} ms; ResNet-{args.large}: {1e3 * large:.1f} ms a step of "
          f"{args.batch}; time {100 * ratio:.2f} %, FLOPs {100 * counted[0] / counted[1]:.2f} %")  # fmt: skip
    if args.out:
        told = {"repeats": args.repeats, "ratio": ratio, "networks": [args.small, args.large]}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
