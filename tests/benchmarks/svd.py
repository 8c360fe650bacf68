"""Translating a layer to low rank: LAPACK's whole SVD against the randomized one that large layers take.

    python tests/benchmarks/svd.py                       # AlexNet's layers at rank 32
    python tests/benchmarks/svd.py --rank 8 --repeats 5

Told are the seconds of both (the best of the repeats), and what the cheaper one costs in the result: how far
||W - A B^T|| is above the best there is (Eckart, Young 1936), for weights as they start and for weights with
the decaying spectrum of trained ones.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_modules.lowrank import is_large, randomized_svd

SHAPES = ((512, 256), (1024, 512), (4096, 1024), (4096, 4096))


def started(shape: tuple[int, int]) -> Tensor:
    """As nn.Linear draws them: a nearly flat spectrum, the hardest case."""
    return torch.nn.Linear(shape[1], shape[0]).weight.detach()


def trained(shape: tuple[int, int]) -> Tensor:
    """Singular values that fall as 1 / i."""
    u, v = (torch.linalg.qr(torch.randn(n, min(shape))).Q for n in shape)
    return (u / torch.arange(1, min(shape) + 1)) @ v.T


def best_seconds(solve: Callable[[], object], *, repeats: int) -> float:
    """Of the fastest repeat."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        solve()
        found.append(time.perf_counter() - begun)
    return min(found)


def excess(weight: Tensor, rank: int) -> float:
    """||W - U S V^T|| of the randomized solver over the least there is, minus 1."""
    u, s, v = randomized_svd(weight, rank, seed=0)
    least = torch.linalg.svdvals(weight)[rank:].square().sum().sqrt()
    return float((weight - (u * s) @ v.T).norm() / least) - 1.0


def main() -> None:
    """Print a row for each shape."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        f"rank {args.rank} | solver taken | whole, s | randomized, s | excess error at start | once trained"
    )
    for shape in SHAPES:
        weight = started(shape)
        whole = best_seconds(lambda w=weight: torch.linalg.svd(w, full_matrices=False), repeats=args.repeats)  # type: ignore[misc]
        cheap = best_seconds(lambda w=weight: randomized_svd(w, args.rank, seed=0), repeats=args.repeats)  # type: ignore[misc]
        taken = "randomized" if is_large(shape, args.rank) else "whole"
        errors = [f"{100 * excess(w, args.rank):.3f} %" for w in (weight, trained(shape))]
        print(f"{shape[0]} x {shape[1]} | {taken} | {whole:.3f} | {cheap:.4f} | {' | '.join(errors)}")


if __name__ == "__main__":
    main()
