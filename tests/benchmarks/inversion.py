"""What a small device's upload gives away: one image, one plain SGD step, FULL against HALF.

    python tests/benchmarks/inversion.py            # the exact attack, then gradient matching

The server knows the weights it sent and gets the changed ones back, so it knows lr * gradient of every tensor
that was sent. Two attacks on a device that trained on a single image:

- exact: at a low-rank layer z = A (B^T x) + b the gradients are db = e, dA = e (B^T x)^T, dB = x (A^T e)^T,
  with e = dL/dz. So whoever sends B and b gives away the layer's input x itself, up to rounding, and whoever
  sends A and b gives away the R numbers B^T x, whose least-norm preimage is the attacker's best guess.
- matching: the image and label that best explain the gradients (Zhu, Liu, Han, "Deep leakage from gradients",
  NeurIPS 2019; the label read off the bias as in Zhao et al., "iDLG", 2020), by L-BFGS.

The error told is ||x' - x|| / ||x||: 0 is the image itself, about 1 nothing of it.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import TaskConfig
from harness.data.task import Shard
from harness.data.tasks import load_task
from lightning_modules.lowrank import factorize

Grads = Mapping[str, Tensor]
UPLOADS = {"FULL": ("weight_a", "weight_b"), "HALF, A": ("weight_a",), "HALF, B": ("weight_b",)}


def network(*, rank: int, seed: int, side: int) -> nn.Module:
    """Two low-rank layers over side x side pixels; gradient matching needs the smooth activation."""
    torch.manual_seed(seed)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 128), nn.Sigmoid(), nn.Linear(128, 10))
    return factorize(dense, rank).double()


def gradients(module: nn.Module, image: Tensor, label: Tensor, *, graph: bool = False) -> dict[str, Tensor]:
    """Of the cross-entropy, by name."""
    named = dict(module.named_parameters())
    loss = F.cross_entropy(module(image), label)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), create_graph=graph), strict=True))


def sent(grads: Grads, upload: str) -> dict[str, Tensor]:
    """What of them goes up: biases always, of the factors those of the upload."""
    return {name: g for name, g in grads.items() if name.split(".")[-1] in ("bias", *UPLOADS[upload])}


def exact(module: nn.Module, got: Grads, layer: str) -> Tensor:
    """The input of a low-rank layer as its gradients tell it."""
    e = got[f"{layer}.bias"]
    weights = dict(module.named_parameters())
    if f"{layer}.weight_b" in got:
        s = weights[f"{layer}.weight_a"].detach().T @ e
        return got[f"{layer}.weight_b"] @ s / (s @ s)
    seen = got[f"{layer}.weight_a"].T @ e / (e @ e)
    found: Tensor = torch.linalg.lstsq(weights[f"{layer}.weight_b"].detach().T, seen[:, None]).solution
    return found[:, 0]


def match(module: nn.Module, got: Grads, *, shape: torch.Size, label: Tensor, steps: int) -> Tensor:
    """The image whose gradients come closest, from noise."""
    guess = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    guess.requires_grad_()
    # Each tensor weighs alike: a plain sum of squares would hear the largest one alone.
    scale = {name: float(g.square().sum()) for name, g in got.items()}
    optimizer = torch.optim.LBFGS([guess], lr=1.0, max_iter=steps, line_search_fn="strong_wolfe",
                                  tolerance_grad=1e-14, tolerance_change=1e-18)  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        mine = gradients(module, guess, label, graph=True)
        loss = torch.stack([(mine[name] - g).square().sum() / scale[name] for name, g in got.items()]).sum()
        (guess.grad,) = torch.autograd.grad(loss, guess)
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return guess.detach()


def error(found: Tensor, truth: Tensor) -> float:
    """||x' - x|| / ||x||."""
    return float((found.flatten() - truth.flatten()).norm() / truth.norm())


def main() -> None:
    """Print a row per upload and rank: mean error of both attacks over images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--out", type=Path, help="JSON for `harness claims`, e.g. results/bench/inversion.json"
    )
    args = parser.parse_args()
    task = load_task(TaskConfig(name="digits"))
    examples = task.load().test
    rows = []
    print("rank | upload | exact | matching (mean relative error of the image; 0 is the image itself)")
    for rank in args.ranks:
        errors: dict[str, list[tuple[float, float]]] = {upload: [] for upload in UPLOADS}
        for number in range(args.images):
            batch = Shard(task, examples, torch.tensor([number]).numpy()).take(torch.tensor([0]).numpy())
            image, label = batch.inputs.double(), batch.targets
            module = network(rank=rank, seed=number, side=image.shape[-1])
            grads = gradients(module, image, label)
            for upload in UPLOADS:
                got = sent(grads, upload)
                # The true class is the one whose output bias is pushed up.
                told = got["3.bias"].argmin()[None]
                matched = match(module, got, shape=image.shape, label=told, steps=args.steps)
                errors[upload].append((error(exact(module, got, "1"), image), error(matched, image)))
        for upload, pairs in errors.items():
            means = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
            print(f"{rank} | {upload} | {means[0]:.2e} | {means[1]:.2e}")
            rows.append({"name": upload, "rank": rank, "exact": means[0], "matching": means[1]})
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"repeats": args.images, "uploads": rows}, indent=1))


if __name__ == "__main__":
    main()
