"""Who holds which images where one shows several classes: a greedy deal towards a table of object counts.

No deal of whole images can meet such a table to the last object; this one gets near, always in the same way.

Letters: N images, K clients, C classes of objects.
"""

import numpy as np
from numpy.typing import NDArray

from harness.config import nearest, require
from harness.data.task import Task

Ints = NDArray[np.int64]

OBJECT_PRESETS: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "rpn_voc": (
        "Huang et al., ECAI 2020, Table 5: PASCAL VOC over ten clients, classes in alphabetical order",
        (
            (53, 32, 71, 66, 58, 61, 38, 45, 39, 60),  # aeroplane
            (21, 62, 33, 48, 39, 56, 57, 68, 42, 40),  # bicycle
            (61, 68, 103, 52, 50, 75, 37, 43, 59, 50),  # bird
            (31, 42, 71, 52, 23, 36, 43, 54, 29, 40),  # boat
            (71, 82, 38, 54, 65, 98, 37, 77, 61, 81),  # bottle
            (31, 12, 53, 64, 55, 46, 27, 18, 59, 60),  # bus
            (123, 108, 45, 64, 72, 151, 77, 48, 89, 103),  # car
            (75, 89, 101, 161, 77, 87, 89, 58, 113, 94),  # cat
            (170, 65, 79, 91, 106, 118, 68, 91, 117, 67),  # chair
            (12, 25, 39, 33, 41, 29, 17, 18, 29, 20),  # cow
            (34, 28, 45, 72, 52, 61, 37, 28, 49, 30),  # diningtable
            (208, 102, 113, 178, 58, 69, 91, 82, 119, 98),  # dog
            (43, 25, 31, 49, 72, 28, 19, 31, 27, 42),  # horse
            (16, 72, 21, 40, 53, 39, 72, 68, 49, 52),  # motorbike
            (340, 689, 213, 480, 111, 239, 128, 196, 295, 303),  # person
            (45, 24, 65, 83, 28, 31, 39, 18, 45, 51),  # pottedplant
            (28, 12, 61, 22, 14, 20, 30, 18, 39, 27),  # sheep
            (42, 39, 29, 37, 35, 20, 51, 54, 32, 30),  # sofa
            (34, 26, 66, 14, 25, 32, 38, 40, 19, 41),  # train
            (68, 43, 23, 45, 39, 29, 17, 29, 31, 40),  # tvmonitor
        ),
    ),
}
"""Tables that `partition.preset` names under `object_counts`: source; rows classes, columns clients."""


def object_table(name: str) -> list[list[int]]:
    """A preset as [K][C]. Raises ConfigError for an unknown name."""
    known = sorted(OBJECT_PRESETS)
    require(name in known, f"partition.preset: unknown table {name!r}{nearest(name, known)}")
    return [list(row) for row in zip(*OBJECT_PRESETS[name][1], strict=True)]


def objects_of(task: Task, targets: NDArray[np.generic]) -> Ints:
    """[N, C] objects of each class in each image: boxes, or labels. Of masks, which show no objects: 1 for a
    class that is in the image, the background left out.
    """
    counts = task.class_counts(targets)
    return (counts[:, 1:] > 0).astype(np.int64) if task.kind == "segmentation" else counts


def deal_objects(objects: Ints, wanted: Ints, rng: np.random.Generator) -> Ints:
    """[N] the client of each image, -1 for the remainder; `wanted` [K, C] objects.

    A class of which there are fewer objects than wanted is shared in the table's proportions. Images of rare
    classes and of many objects go first, each to the client whose distance to its row, |wanted - held| summed
    over classes, it shortens most; where it shortens nobody's, it is left over. Ties go to the lower id.
    """
    available, asked = objects.sum(axis=0), wanted.sum(axis=0)
    goal = wanted * np.minimum(1.0, available / np.maximum(asked, 1))
    held = np.zeros_like(goal)
    rarest = np.where(objects > 0, available, np.iinfo(np.int64).max).min(axis=1)
    order = np.lexsort((rng.random(len(objects)), -objects.sum(axis=1), rarest))
    owner = np.full(len(objects), -1, np.int64)
    for image in order:
        shorter = (np.abs(goal - held) - np.abs(goal - held - objects[image])).sum(axis=1)
        client = int(shorter.argmax())
        if shorter[client] > 0:
            owner[image] = client
            held[client] += objects[image]
    return owner


def objects_held(objects: Ints, *, rows: Ints, sizes: Ints) -> Ints:
    """[K, C] what a deal reached: `rows` [M] client after client, `sizes` [K] of them each."""
    held = np.zeros((len(sizes), objects.shape[1]), np.int64)
    np.add.at(held, np.repeat(np.arange(len(sizes)), sizes), objects[rows])
    return held
