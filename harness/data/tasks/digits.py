"""The 1,797 handwritten digits bundled with scikit-learn: a real data set that is always there.

Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI (its test part).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from harness.data.resize import resize
from harness.data.splits import Stored, stratified_order
from harness.data.task import Examples
from harness.data.tasks.images import Card, ImageTask

NUM_TEST = 297


class Digits(ImageTask):
    """8x8 images with 17 shades of grey, enlarged to 28x28 unless task.image_size says otherwise."""

    def card(self) -> Card:
        size = self.cfg.image_size or 28
        # Mean and deviation of the enlarged training pixels.
        return Card((size, size, 1), 10, 1500, mean=(0.3054,), std=(0.3246,))

    def stored(self) -> Stored:
        pixels, labels = _read()
        images = resize(pixels, size=self.size[0])
        order = stratified_order(labels)
        test, train = order[:NUM_TEST], order[NUM_TEST:]
        return Stored(Examples(images[train], labels[train]), Examples(images[test], labels[test]))


@cache
def _read() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [N, 8, 8, 1] and labels [N], only read: scikit-learn parses a text file for 0.1 s each time."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None], bunch.target.astype(np.int64)
