"""train / val / test out of what is stored: nothing is drawn at run time.

Rows are put once into an order every prefix of which has the classes in proportion. Holding out val and
limiting sizes are then slices: deterministic whatever the run's seed, and without a copy of a mapped file.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.config import TaskConfig, require
from harness.data.task import Examples, Splits

ORDER_SEED = 20_240
"""Fixed: the same rows are val in every run, whatever its seed."""


class Stored(NamedTuple):
    """A data set as it comes: val is not yet held out."""

    train: Examples
    test: Examples


def stratified_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """A fixed random order of rows [N] whose every prefix has each label in proportion, to about one row.

    The r-th of the n rows of a label, drawn at random, is placed at (r + 1/2) / n.
    """
    rng = np.random.default_rng(ORDER_SEED)
    shuffled = rng.permutation(len(labels))
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[grouped], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    place = (rank + 0.5) / np.repeat(counts, counts)
    return grouped[np.lexsort((rng.random(len(labels)), place))]


def take(examples: Examples, start: int, stop: int | None) -> Examples:
    """Rows start..stop as views of the same arrays."""
    writers = examples.writers
    return Examples(
        examples.inputs[start:stop],
        examples.targets[start:stop],
        None if writers is None else writers[start:stop],
    )


def hold_out(stored: Stored, *, cfg: TaskConfig, val_from: str) -> Splits:
    """Cut val from the head of the train rows, or of the test rows, and apply the limits.

    `limit_train` is what is left to train on; val shrinks with the split it is cut from, so that
    `val_fraction` keeps its meaning. Rows must be in `stratified_order`. Raises ConfigError.
    """
    for key, limit in (("limit_train", cfg.limit_train), ("limit_test", cfg.limit_test)):
        require(limit is None or limit >= 1, f"task.{key} must be >= 1, got {limit}")
    if val_from == "train":
        val, train = _cut(stored.train, cfg.val_fraction, cfg.limit_train, "limit_train")
        test = _limit(stored.test, cfg.limit_test, "limit_test")
    else:
        val, test = _cut(stored.test, cfg.val_fraction, cfg.limit_test, "limit_test")
        train = _limit(stored.train, cfg.limit_train, "limit_train")
    return Splits(train=train, val=val, test=test)


def _cut(rows: Examples, fraction: float, limit: int | None, key: str) -> tuple[Examples, Examples]:
    held = max(1, round(fraction * len(rows)))
    require(held < len(rows), f"task.val_fraction: {fraction} of {len(rows)} examples leaves none to use")
    rest = _limit(take(rows, held, None), limit, key)
    if limit is not None:
        held = min(held, max(1, round(len(rest) * fraction / (1 - fraction))))
    return take(rows, 0, held), rest


def _limit(rows: Examples, limit: int | None, key: str) -> Examples:
    if limit is not None and limit > len(rows):
        warnings.warn(f"task.{key}={limit} has no effect: there are {len(rows)} examples", stacklevel=4)
    return take(rows, 0, limit)
