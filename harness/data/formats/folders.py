"""Folders of images, one sub-folder per class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.data.task import Examples
from harness.types import DataError


def read_folder(root: Path, *, classes: Sequence[str], side: int) -> Examples:
    """`root/<class>/*.png` as [N, side, side, 3] uint8, by class, then name. Raises DataError."""
    from PIL import Image

    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted((root / name).glob("*.png"))
        if not found:
            raise DataError(f"{root / name}: holds no .png file")
        paths += found
        labels += [label] * len(found)
    images = np.empty((len(paths), side, side, 3), np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: truncated or not a png ({error})") from None
        if pixels.shape != (side, side, 3):
            raise DataError(f"{path}: must be {side}x{side}, got {pixels.shape[1]}x{pixels.shape[0]}")
        images[row] = pixels
    return Examples(images, np.asarray(labels, np.int64))
