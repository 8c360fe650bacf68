"""Mixes: how many clients get each kind of submodel.

Shape letters: S kinds of submodel, the largest first; M mixes; K clients.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.config import nearest, require
from harness.types import SubmodelId

Ints = NDArray[np.int64]


def check_mix(mix: Mapping[str, float], names: Sequence[str], *, cohort: int) -> None:
    """Raise ConfigError for a mix of unknown submodels, or one that is neither shares nor `cohort` counts."""
    require(bool(mix), f"scheduler.mix must say how many clients get each of {', '.join(names)}")
    for name in mix:
        require(name in names, f"scheduler.mix: unknown submodel {name!r}{nearest(name, list(names))}")
    total = sum(mix.values())
    require(
        abs(total - 1) < 1e-6 or total == cohort,
        f"scheduler.mix must sum to the cohort of {cohort} clients (or to 1, as shares), got {total:g}",
    )


def counts_of(mix: Mapping[str, float], names: Sequence[SubmodelId], *, clients: int) -> Ints:
    """[S] whole clients per submodel, in proportion to the mix: largest remainders first, ties in order."""
    return apportion(np.array([float(mix.get(name, 0.0)) for name in names]), clients)


def apportion(shares: NDArray[np.float64], total: int) -> Ints:
    """Counts that sum to `total`, in proportion to `shares` by largest remainder; ties go to the earlier."""
    exact = shares / shares.sum() * total
    counts: Ints = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts


def all_mixes(clients: int, multiples: Sequence[int], *, most: int) -> Ints | None:
    """[M, S] every split of the clients into multiples; the first kind takes what is left. None: over `most`.

    In descending order: the largest submodels first.
    """
    found = []
    for counts in _splits(clients, list(multiples[1:])):
        found.append((clients - sum(counts), *counts))
        if len(found) > most:
            return None
    return np.array(sorted(found, reverse=True), dtype=np.int64)


def grid(kinds: int, *, most: int) -> tuple[NDArray[np.float64], float]:
    """[M, S] shares in equal steps, as fine as at most `most` mixes allow, and the step."""
    steps = 1
    while steps < 64 and _num_grid(kinds, steps + 1) <= most:
        steps += 1
    rows = sorted(_splits_exact(steps, kinds), reverse=True)
    return np.array(rows, dtype=np.float64) / steps, 1.0 / steps


def around(best: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """[M, S] the mix [S] itself and those that move `step` of the clients from one kind to another."""
    kinds = len(best)
    moves = [np.zeros(kinds)]
    for source in range(kinds):
        for target in range(kinds):
            if source != target and best[source] >= step - 1e-12:
                move = np.zeros(kinds)
                move[source], move[target] = -step, step
                moves.append(move)
    return np.maximum(best + np.array(moves), 0.0)


def whole(shares: NDArray[np.float64], clients: int, multiples: Sequence[int]) -> Ints:
    """[M, S] counts near the shares [M, S], in multiples; the first kind takes what is left."""
    each = np.asarray(multiples, dtype=np.int64)
    counts = np.floor(shares * clients / each + 1e-9).astype(np.int64) * each
    counts[:, 0] = clients - counts[:, 1:].sum(axis=1)
    return counts


def _num_grid(kinds: int, steps: int) -> int:
    total = 1
    for i in range(1, kinds):
        total = total * (steps + i) // i
    return total


def _splits(total: int, multiples: list[int]) -> Iterator[tuple[int, ...]]:
    """Every tuple of multiples that sums to at most `total`."""
    if not multiples:
        yield ()
        return
    for first in range(0, total + 1, multiples[0]):
        for rest in _splits(total - first, multiples[1:]):
            yield (first, *rest)


def _splits_exact(total: int, kinds: int) -> Iterator[tuple[int, ...]]:
    if kinds == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _splits_exact(total - first, kinds - 1):
            yield (first, *rest)
