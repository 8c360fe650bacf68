"""LEAF's json files (https://leaf.cmu.edu): users, and per user the lists x and y."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.formats.files import read_bytes
from harness.data.task import Examples
from harness.types import DataError


def read_leaf(files: Sequence[Path], *, side: int) -> tuple[Examples, list[str]]:
    """FEMNIST-like files as [N, side, side, 1] uint8 images; writers index the returned, sorted user names.

    LEAF keeps pixels as floats in [0, 1]. Raises DataError.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    users: list[str] = []
    for path in files:
        for user, x, y in _users(path):
            images.append(_pixels(x, side, f"{path}, user {user}"))
            labels.append(_labels(y, len(images[-1]), f"{path}, user {user}"))
            users.append(user)
    if not images:
        raise DataError(f"{', '.join(map(str, files)) or 'no file'}: holds no user")
    names = sorted(set(users))
    writers = np.repeat(np.searchsorted(names, users), [len(y) for y in labels]).astype(np.int64)
    return Examples(np.concatenate(images), np.concatenate(labels), writers), names


def _users(path: Path) -> list[tuple[str, object, object]]:
    try:
        tree = json.loads(read_bytes(path))
        return [(user, tree["user_data"][user]["x"], tree["user_data"][user]["y"]) for user in tree["users"]]
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: truncated or not LEAF json ({type(error).__name__}: {error})") from None


def _pixels(x: object, side: int, where: str) -> NDArray[np.uint8]:
    try:
        values = np.asarray(x, np.float32)
    except (ValueError, TypeError):
        raise DataError(f"{where}: x must be lists of {side * side} numbers") from None
    if values.shape[1:] != (side * side,):
        raise DataError(f"{where}: x must be [N, {side * side}], got {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"{where}: pixels must lie in [0, 1]")
    return np.rint(values * 255).astype(np.uint8).reshape(-1, side, side, 1)


def _labels(y: object, count: int, where: str) -> NDArray[np.int64]:
    try:
        labels = np.asarray(y, np.int64)
    except (ValueError, TypeError):
        raise DataError(f"{where}: y must be integers") from None
    if labels.shape != (count,):
        raise DataError(f"{where}: y must hold one label per image, got {labels.shape} for {count} images")
    return labels
