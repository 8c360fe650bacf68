"""FEMNIST: NIST's handwritten characters by writer, as LEAF packs them (Caldas et al., arXiv:1812.01097)."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from harness.data.formats.leaf import read_leaf
from harness.data.splits import Stored, stratified_order
from harness.data.task import Examples
from harness.data.tasks.files import FileTask, Hub, Source
from harness.data.tasks.images import Card

TEST_FRACTION = 0.1


class Femnist(FileTask):
    """62 kinds of characters, 28x28, dark on white, with their writers."""

    wanted: ClassVar[str] = (
        "femnist/data/{train,test}/all_data_*.json or femnist/data/all_data/all_data_*.json"
    )
    hub: ClassVar[Hub | None] = Hub("flwrlabs/femnist", label="character", writer="writer_id")

    def card(self) -> Card:
        # 814,277 characters, nine tenths of every writer's to train on.
        return Card((28, 28, 1), 62, 732_849, mean=(0.9637,), std=(0.1597,))

    def find(self, root: Path) -> Source | None:
        for folder in (root / "femnist/data", root / "femnist"):
            train, test = (sorted((folder / side).glob("all_data_*.json")) for side in ("train", "test"))
            if train and test:
                return Source((*train, *test), lambda a=train, b=test: _read_split(a, b))  # type: ignore[misc]
            whole = sorted((folder / "all_data").glob("all_data_*.json")) or sorted(
                folder.glob("all_data_*.json")
            )
            if whole:
                return Source(
                    tuple(whole),
                    lambda files=whole: split_by_writer(read_leaf(files, side=28)[0]),  # type: ignore[misc]
                )
        return None


def split_by_writer(examples: Examples) -> Stored:
    """A fixed tenth of every writer's examples becomes test: the published files have no test split."""
    assert examples.writers is not None
    order = stratified_order(examples.writers)
    cut = max(1, round(TEST_FRACTION * len(order)))
    test, train = np.sort(order[:cut]), np.sort(order[cut:])
    return Stored(
        *(Examples(examples.inputs[i], examples.targets[i], examples.writers[i]) for i in (train, test))
    )


def _read_split(train: list[Path], test: list[Path]) -> Stored:
    """LEAF's own split. Writers are numbered over train, the side that is partitioned."""
    learned, names = read_leaf(train, side=28)
    tested, test_names = read_leaf(test, side=28)
    assert tested.writers is not None
    numbers = {name: number for number, name in enumerate(names)}
    translate = np.asarray([numbers.get(name, -1) for name in test_names], np.int64)
    return Stored(learned, Examples(tested.inputs, tested.targets, translate[tested.writers]))
