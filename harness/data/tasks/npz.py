"""A user's own images: one .npz named by task.path, through the same cache as every published set."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.config import require
from harness.data.formats.npz import peek_npz, read_npz
from harness.data.splits import Stored
from harness.data.tasks.files import FileTask, Source
from harness.data.tasks.images import Card, ImageOptions
from harness.types import DataError


@dataclass(frozen=True, slots=True)
class NpzOptions(ImageOptions):
    """`task.options` of npz."""

    num_classes: int = 0
    """Classes; 0: one more than the largest training label."""
    mean: tuple[float, ...] = (0.5,)
    """Of pixels scaled to 0..1, one number or one per channel."""
    std: tuple[float, ...] = (0.5,)
    """The same of the standard deviation."""


class Npz(FileTask):
    """x_train, y_train, x_test, y_test and, optionally, writer_train.

    Unlike other tasks it looks into its file when it is built: shape and classes stand nowhere else.
    """

    Options: ClassVar[type[ImageOptions]] = NpzOptions
    options: NpzOptions
    wanted: ClassVar[str] = "task.path"

    def card(self) -> Card:
        path = self._path()
        shape, labels = peek_npz(path)
        if not len(labels):
            raise DataError(f"{path}: y_train is empty")
        constants = {}
        for key in ("mean", "std"):
            values = getattr(self.options, key)
            require(
                len(values) in (1, shape[2]),
                f"task.options.{key} must hold 1 or {shape[2]} numbers, got {len(values)}",
            )
            constants[key] = tuple(map(float, values)) * (shape[2] // len(values))
        require(min(constants["std"]) > 0, f"task.options.std must be > 0, got {min(constants['std'])}")
        num_classes = self.options.num_classes or int(labels.max()) + 1
        return Card(shape, num_classes, len(labels), mean=constants["mean"], std=constants["std"])

    def find(self, root: Path) -> Source | None:
        return self.source()

    def source(self) -> Source:
        """The user's file."""
        path = self._path()
        return Source((path,), lambda: Stored(*read_npz(path)))

    def _path(self) -> Path:
        require(self.cfg.path is not None, "task.path must name an .npz file for task npz, got none")
        path = Path(str(self.cfg.path)).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such file; task.path must name an .npz with x_train, y_train, ...")
        return path
