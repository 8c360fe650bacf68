"""Runs pulled from the head node of a cluster, each as one archive through the object store."""

import logging
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import ray
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value

from harness.types import ConfigError
from ray_actors.launch import knock, no_cluster

HEAD = {"node:__internal_head__": 0.001}
"""The resource that only the head node has."""


def fetch(folder: str, *, address: str, into: Path, say: Callable[[str], None]) -> int:
    """Copy the runs in `folder` of the head node into a folder here; returns how many were new.

    A finished run whose summary is here already is left alone; any other is replaced as a whole. Raises
    ConfigError where no cluster answers or it has no runs there.
    """
    knock(address)
    # The tasks are sent as they stand: nodes need nothing of ours for them.
    register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise no_cluster(address, " ".join(str(error).split())) from None
    try:
        on_head = {"num_cpus": 0, "resources": HEAD}
        found = ray.get(ray.remote(list_runs).options(**on_head).remote(folder))
        if not found:
            raise ConfigError(f"fetch: the head node of {address} has no runs in {folder}")
        into.mkdir(parents=True, exist_ok=True)
        new = [name for name, summary in found.items() if not summary or summary != summary_of(into / name)]
        for number, name in enumerate(new, start=1):
            unpack(ray.get(ray.remote(pack).options(**on_head).remote(folder, name)), into / name)
            say(f"{number}/{len(new)}: {into / name}")
        return len(new)
    finally:
        ray.shutdown()
        unregister_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]


def list_runs(folder: str) -> dict[str, bytes]:
    """run_id -> its summary.json, empty for an unfinished run."""
    paths = sorted(path.parent for path in Path(folder).expanduser().glob("*/config.yaml"))
    return {path.name: summary_of(path) for path in paths}


def summary_of(run: Path) -> bytes:
    """The bytes of summary.json, empty where there is none."""
    try:
        return (run / "summary.json").read_bytes()
    except OSError:
        return b""


def pack(folder: str, name: str) -> bytes:
    """The files of a run as a compressed archive; its lock stays where its holder lives."""
    run = Path(folder).expanduser() / name
    held = BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(run.rglob("*")):
            if path.is_file() and path.name != "lock":
                archive.add(path, arcname=str(path.relative_to(run)))
    return held.getvalue()


def unpack(archive: bytes, run: Path) -> None:
    """Put a run in its place, whole or not at all."""
    scratch = Path(tempfile.mkdtemp(dir=run.parent, prefix=f".{run.name}-"))
    try:
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(scratch, filter="data")
        scratch.chmod(0o755)
        shutil.rmtree(run, ignore_errors=True)
        scratch.rename(run)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
