"""Image tasks read from files: found under HARNESS_DATA_DIR or fetched, then always through the cache."""

import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.data import cache
from harness.data.formats.npz import read_npz
from harness.data.splits import Stored
from harness.data.tasks.images import ImageTask, check_examples
from harness.types import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """Original files that were found."""

    files: tuple[Path, ...]
    """All that are read; the cache entry is named after their sizes and times."""
    read: Callable[[], Stored]
    """Reads them. Raises DataError."""


@dataclass(frozen=True, slots=True)
class Hub:
    """Where `harness data prepare` fetches a task from, as parquet files of encoded images."""

    repo: str
    """Data set on the Hugging Face hub."""
    image: str = "image"
    """Column of images."""
    label: str = "label"
    """Column of integer labels."""
    writer: str | None = None
    """Column that names who made the example."""
    folder: str = "data"
    """Folder of the parquet files inside the repository."""


def data_dir() -> Path | None:
    """HARNESS_DATA_DIR, where original files are looked for."""
    value = os.environ.get("HARNESS_DATA_DIR")
    return Path(value).expanduser() if value else None


class FileTask(ImageTask):
    """A published data set."""

    wanted: ClassVar[str]
    """What `find` looks for, in words, for the error message."""
    hub: ClassVar[Hub | None] = None

    @property
    def data_name(self) -> str:
        """Names the cache folder, `<data_name>.npz`, and the argument of `harness data prepare`."""
        return self.cfg.name.rpartition(":")[2]

    @abstractmethod
    def find(self, root: Path) -> Source | None:
        """The original files under `root`, or None."""

    def source(self) -> Source | None:
        """Original files or an .npz of the task's name under HARNESS_DATA_DIR."""
        root = data_dir()
        if root is None:
            return None
        name = f"{self.data_name}.npz"
        own = next((path for path in (root / name, root / self.data_name / name) if path.is_file()), None)
        if own is not None:
            return Source((own,), lambda: Stored(*read_npz(own)))
        return self.find(root)

    def where(self) -> str | None:
        """Where the data was found, in words; None where it was not."""
        source = self.source()
        if source:
            return str(source.files[0].parent if len(source.files) > 1 else source.files[0])
        return str(self.prepared()) if self.prepared().is_dir() else None

    def prepared(self) -> Path:
        """The cache entry that `harness data prepare` writes."""
        return cache.cache_dir() / self.data_name / "prepared"

    def stored(self) -> Stored:
        """The mapped cache entry, made from the original files where it is missing. Raises DataError."""
        entry = self._entry()
        if self.size != self.card().shape[:2]:
            entry = cache.sized(entry, self.size[0])
        return self.checked(cache.read(entry), where=str(entry), shape=(*self.size, self.input_shape[0]))

    def checked(self, stored: Stored, *, where: str, shape: tuple[int, int, int] | None = None) -> Stored:
        """`stored` if it is what the card says. Raises DataError."""
        for side, examples in zip(("train", "test"), stored, strict=True):
            check_examples(
                examples,
                shape=shape or self.card().shape,
                num_classes=self.num_classes,
                where=f"{where} ({side})",
            )
        return stored

    def _entry(self) -> Path:
        source = self.source()
        if source is None:
            if self.prepared().is_dir():
                return self.prepared()
            raise DataError(
                f"task {self.data_name}: no data found; looked for {self.wanted} or {self.data_name}.npz in "
                f"HARNESS_DATA_DIR ({data_dir() or 'not set'}) and for {self.prepared()}; "
                f"run `harness data prepare {self.data_name}`"
            )
        entry = cache.cache_dir() / self.data_name / cache.fingerprint(source.files)
        if not entry.is_dir():
            cache.write(entry, self.checked(source.read(), where=str(source.files[0])))
        return entry


def first_dir_with(root: Path, folders: tuple[str, ...], files: tuple[str, ...]) -> Path | None:
    """The first of `root`'s folders that holds all `files`."""
    for folder in folders:
        if all((root / folder / name).is_file() for name in files):
            return root / folder
    return None
