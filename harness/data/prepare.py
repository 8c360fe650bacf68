"""Fetching tasks into the cache: `harness data prepare NAME`, and saying which are there.

Most come from the Hugging Face hub as parquet files of encoded images, read with its `datasets` library;
EMNIST comes as its original idx files. A folder or an http address in the same layout serves as well.
"""

import os
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from harness.config import TaskConfig, nearest, require
from harness.data import cache
from harness.data.splits import Stored
from harness.data.task import Examples
from harness.data.tasks import load_task, task_names
from harness.data.tasks.emnist import Emnist
from harness.data.tasks.femnist import split_by_writer
from harness.data.tasks.files import FileTask, Hub
from harness.data.tasks.voc import VocTask
from harness.types import ConfigError, DataError

T = TypeVar("T")

_SIDES = ("train", "test")
_FIXED = {
    "digits": "bundled with scikit-learn",
    "npz": "the file in task.path",
    "shapes_detection": "generated",
    "shapes_segmentation": "generated",
    "synthetic": "generated",
}
"""Tasks whose data is not looked for, and where it comes from."""


def prepare(name: str, *, source: str | None = None) -> Path:
    """Fetch a task and return its cache entry, which replaces an older one.

    `name` is a task, or `emnist-<split>`. `source`: a folder or an http(s) address in the hub's layout;
    default the hub itself. Raises ConfigError for a name that cannot be fetched, DataError in one line
    for a fetch that fails.
    """
    task = _file_task(name)
    # Fail now rather than after a download.
    root = task.prepared().parent
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error.strerror}); set HARNESS_CACHE_DIR") from None
    if source is not None and not _is_address(source):
        require(
            Path(source).is_dir(), f"prepare {name}: source {source!r} is neither a folder nor http(s)://"
        )
    elif any(os.environ.get(key, "0") not in ("", "0") for key in ("HARNESS_OFFLINE", "HF_HUB_OFFLINE")):
        raise DataError(f"prepare {name}: offline (HARNESS_OFFLINE is set); unset it or give a local source")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=root) as scratch:
        if isinstance(task, Emnist):
            stored = _fetch_idx(task, source, Path(scratch))
        else:
            stored = _fetch_parquet(task, source, Path(scratch))
        cache.replace(task.prepared(), task.checked(stored, where=source or name))
    return task.prepared()


def available() -> list[tuple[str, str | None]]:
    """(task, where its data was found or None) for every task."""
    return [(name, _where(name)) for name in task_names()]


def _where(name: str) -> str | None:
    if name in _FIXED:
        return _FIXED[name]
    task = load_task(TaskConfig(name=name))
    assert isinstance(task, FileTask | VocTask)
    return task.where()


def _file_task(name: str) -> FileTask:
    family, _, split = name.partition("-")
    known = [task for task in task_names() if task not in _FIXED and not task.startswith("voc_")]
    require(family in known, f"prepare: no data set named {name!r} to fetch{nearest(name, known)}")
    task = load_task(TaskConfig(name=family, options={"split": split} if split else {}))
    assert isinstance(task, FileTask)
    fetchable = task.hub is not None or isinstance(task, Emnist)
    if not fetchable:
        raise ConfigError(f"prepare: {name} cannot be fetched; put {task.wanted} under HARNESS_DATA_DIR")
    return task


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _guarded(what: str, step: Callable[[], T]) -> T:
    """Run a step of a fetch, any failure of which is a DataError in one line."""
    try:
        return step()
    except DataError as error:
        raise DataError(f"{what}: {error}") from None
    except ConfigError:
        raise
    # Whatever a network or a foreign file does, the libraries raise dozens of types for it.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(f"{what}: {reason}") from None


def _fetch_idx(task: Emnist, source: str | None, scratch: Path) -> Stored:
    if source is not None and not _is_address(source):
        folder = Path(source)
        missing = [name for name in task.file_names if not (folder / name).is_file()]
        if missing:
            raise DataError(f"{folder}: holds no {missing[0]}")
        return task.files_in(folder).read()
    for name in task.file_names:
        if source is None:
            fetch = partial(_hub_file, task.hub_files_repo, name, scratch)
        else:
            fetch = partial(_download, source, name, scratch)
        _guarded(f"prepare {task.data_name}: {source or task.hub_files_repo}/{name}", fetch)
    return task.files_in(scratch).read()


def _hub_file(repo: str, name: str, folder: Path) -> None:
    _datasets()  # the hub's client comes with it
    from huggingface_hub import hf_hub_download

    hf_hub_download(repo, name, repo_type="dataset", local_dir=folder)


def _download(base: str, name: str, folder: Path) -> None:
    with urllib.request.urlopen(f"{base.rstrip('/')}/{name}", timeout=60) as reply:
        blob = reply.read()
    (folder / name).write_bytes(blob)


def _fetch_parquet(task: FileTask, source: str | None, scratch: Path) -> Stored:
    assert task.hub is not None
    hub, what = task.hub, f"prepare {task.data_name} from {source or task.hub.repo}"
    library = _datasets()
    if source is None:
        tables = _guarded(what, partial(library.load_dataset, hub.repo, cache_dir=str(scratch)))
    else:
        files = _guarded(what, partial(_parquet_files, source, hub))
        if not files.get("train"):
            raise DataError(f"{what}: no train-*.parquet there, nor in {hub.folder}/")
        tables = _guarded(
            what, partial(library.load_dataset, "parquet", data_files=files, cache_dir=str(scratch))
        )
    sides = [side for side in _SIDES if side in tables]
    if hub.writer is None and sides != list(_SIDES):
        raise DataError(f"{what}: needs a train and a test split, got {', '.join(sides) or 'none'}")
    height, width, channels = task.card().shape
    shape = (height, width, channels)
    read = [_guarded(f"{what} ({side})", partial(_examples, tables[side], hub, shape)) for side in sides]
    return Stored(*read) if len(read) == 2 else split_by_writer(read[0])


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "prepare needs the `datasets` library; install it with pip install 'edge-fl-harness[data]'"
        ) from None
    module: ModuleType = datasets
    return module


def _parquet_files(source: str, hub: Hub) -> dict[str, list[str]]:
    """{train and test: files} at the top of `source`, or in the hub's folder below it."""
    from fsspec.core import url_to_fs

    files, root = url_to_fs(source.rstrip("/"))
    for folder in (root, f"{root}/{hub.folder}"):
        try:
            listed = [entry.split("?")[0] for entry in files.ls(folder, detail=False)]
        except FileNotFoundError:
            continue
        found = {
            side: sorted(
                str(path)
                for path in listed
                if path.endswith(".parquet") and path.rsplit("/", 1)[-1].startswith((f"{side}-", f"{side}."))
            )
            for side in _SIDES
        }
        if found["train"]:
            return {side: paths for side, paths in found.items() if paths}
    return {}


def _examples(table: Any, hub: Hub, shape: tuple[int, int, int]) -> Examples:
    """One split of a `datasets` table as arrays; `shape` is (H, W, C)."""
    library = _datasets()
    wanted = [hub.image, hub.label, *([hub.writer] if hub.writer else [])]
    missing = [column for column in wanted if column not in table.column_names]
    if missing:
        raise DataError(f"no column {missing[0]!r} among {', '.join(table.column_names)}")
    labels = np.asarray(table.with_format("numpy")[hub.label][:], np.int64)
    writers = None
    if hub.writer:
        names = np.asarray(table[hub.writer][:])
        writers = np.unique(names, return_inverse=True)[1].astype(np.int64)
    images = np.empty((len(table), *shape), np.uint8)
    row = 0
    mode = "L" if shape[2] == 1 else "RGB"
    for batch in table.select_columns([hub.image]).cast_column(hub.image, library.Image()).iter(1000):
        for image in batch[hub.image]:
            pixels = np.asarray(image.convert(mode))
            if pixels.shape[:2] != shape[:2]:
                raise DataError(
                    f"image {row} must be {shape[1]}x{shape[0]}, got {image.width}x{image.height}"
                )
            images[row] = pixels.reshape(shape)
            row += 1
    return Examples(images, labels, writers)
