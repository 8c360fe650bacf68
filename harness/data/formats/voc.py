"""Folders in the layout of PASCAL VOC: pure readers, one file each.

    <root>/ImageSets/{Main,Segmentation}/<list>.txt     names, one a line
    <root>/JPEGImages/<name>.jpg  (or .jpeg, .png)      photographs
    <root>/Annotations/<name>.xml                       boxes, pixels counted from 1, both ends included
    <root>/SegmentationClass/<name>.png                 palette images: class of every pixel, 255 void

Everingham et al., "The PASCAL Visual Object Classes challenge 2012 development kit", sections 8 and 9.
"""

import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.config import nearest
from harness.types import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_ENDS = (".jpg", ".jpeg", ".png")
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
"""The twenty of VOC, in their order."""


def read_list(path: Path) -> list[str]:
    """Names in an image set; what follows a name in its line is left out. Raises DataError."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of image names ({error})") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path}: names no image")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: names {twice} twice")
    return names


def find_image(root: Path, name: str) -> Path:
    """The photograph of a name. Raises DataError where there is none."""
    for end in IMAGE_ENDS:
        path = root / "JPEGImages" / f"{name}{end}"
        if path.is_file():
            return path
    raise DataError(f"{root / 'JPEGImages' / name}{IMAGE_ENDS[0]}: no such image, but it is listed")


def image_size(path: Path) -> tuple[int, int]:
    """(W, H), from the head of the file. Raises DataError."""
    with _opened(path, "image") as picture:
        return picture.size


def read_image(path: Path, *, size: int) -> NDArray[np.uint8]:
    """The image scaled to [size, size, 3], sides on their own. Raises DataError."""
    from PIL import Image

    with _opened(path, "image") as picture:
        return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def read_mask(path: Path, *, size: int, image_size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    """The class of every pixel, [size, size], the nearest pixel's. Raises DataError.

    `image_size` is the (W, H) that the mask must have; classes are 0..num_classes-1, and 255 void.
    """
    from PIL import Image

    with _opened(path, "mask") as picture:
        if picture.mode not in ("P", "L"):
            raise DataError(f"{path}: must hold a class per pixel (mode P or L), got mode {picture.mode}")
        if picture.size != image_size:
            got, wanted = ("x".join(map(str, each)) for each in (picture.size, image_size))
            raise DataError(f"{path}: the mask is {got}, its image {wanted}")
        found = np.unique(np.asarray(picture))
        scaled = np.asarray(picture.resize((size, size), Image.Resampling.NEAREST))
    unknown = found[(found >= num_classes) & (found != 255)]
    if len(unknown):
        raise DataError(f"{path}: class {unknown[0]} is not one of 0..{num_classes - 1} or 255 (void)")
    return scaled


def read_boxes(
    path: Path, *, classes: Sequence[str], image_size: tuple[int, int], allow_empty: bool
) -> NDArray[np.float32]:
    """[M, 5] rows (class, cx, cy, w, h) in 0..1 of the image, in the file's order; -2 - class if difficult.

    `image_size` is the (W, H) of the image. Boxes are cut off at its border; those without area are dropped
    with a warning. Raises DataError for another size, an unknown class, and, unless `allow_empty`, for a
    file without boxes: every image that VOC lists holds an object.
    """
    try:
        tree = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: not an annotation in XML ({error})") from None
    _check_size(tree, path, image_size)
    rows = [_row(node, path, classes, image_size) for node in tree.iter("object")]
    if not rows and not allow_empty:
        raise DataError(
            f"{path}: holds no <object>; take the image off its list, or set task.options.allow_empty=true "
            "where it shows none on purpose"
        )
    kept = [row for row in rows if row is not None]
    if len(kept) < len(rows):
        count = len(rows) - len(kept)
        warnings.warn(f"{path}: {count} box{'es' * (count > 1)} without area dropped", stacklevel=2)
    return np.asarray(kept, np.float32).reshape(-1, 5)


@contextmanager
def _opened(path: Path, what: str) -> Iterator["Image"]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            yield picture
    except DataError:
        raise
    # Pixels are read when they are used, inside the block.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable {what} ({error})") from None


def _check_size(tree: ElementTree.Element, path: Path, image_size: tuple[int, int]) -> None:
    try:
        told = tuple(int(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError as error:
        raise DataError(f"{path}: its <size> holds no whole numbers ({error})") from None
    # Some tools leave the size out, or write 0.
    if all(told) and told != image_size:
        got, wanted = ("x".join(map(str, each)) for each in (told, image_size))
        raise DataError(f"{path}: its <size> is {got}, its image {wanted}")


def _row(
    node: ElementTree.Element, path: Path, classes: Sequence[str], image_size: tuple[int, int]
) -> tuple[float, ...] | None:
    name = (node.findtext("name") or "").strip()
    if name not in classes:
        raise DataError(f"{path}: unknown class {name!r}{nearest(name, classes)}")
    label = classes.index(name)
    try:
        x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{c}") or "") for c in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raise DataError(f"{path}: a box of {name} lacks one of xmin, ymin, xmax, ymax") from None
    width, height = image_size
    # Corners are pixels: a box from 1 to 1 covers the first one. Yet VOC's own boxes are never so thin, and
    # tools that write equal corners mean an empty box.
    if x2 <= x1 or y2 <= y1:
        return None
    left, right = (min(max(x, 0.0), width) / width for x in (x1 - 1, x2))
    top, bottom = (min(max(y, 0.0), height) / height for y in (y1 - 1, y2))
    if right <= left or bottom <= top:
        return None
    difficult = (node.findtext("difficult") or "0").strip() == "1"
    centre = ((left + right) / 2, (top + bottom) / 2)
    return (-2 - label if difficult else label, *centre, right - left, bottom - top)
