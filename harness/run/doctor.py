"""What this machine offers a run, and how a cluster differs. Looks and starts nothing: no Ray, no network."""

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from harness.config import Config
from harness.data.prepare import available
from harness.run.environment import describe_environment
from harness.run.sinks.wandb import choose_mode

PACKAGES = ("torch", "lightning", "ray", "wandb", "datasets")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def examine() -> dict[str, str]:
    """What was looked at -> what was found there, one line each."""
    environment: dict[str, Any] = describe_environment(Config())
    cpu, gpus = environment["cpu"], environment["gpus"]
    found = {"python": f"{environment['python']} on {environment['platform']}"}
    found |= {package: installed(package) for package in PACKAGES}
    found |= {
        "cores": f"{usable_cores()} usable of {cpu['cores']}, {cpu['model']}, {cpu['capability']}",
        "memory": f"{memory_bytes() / 1e9:.1f} GB",
        "GPUs": ", ".join(gpus) or "none; runtime.accelerator=cpu is the default",
        "Ray cluster": os.environ.get("RAY_ADDRESS") or "none named; runs start their own on this machine",
        "torch threads": f"{torch.get_num_threads()} here; runs set runtime.client_threads, server_threads",
        "W&B": f"{choose_mode('auto')} with log.wandb=auto",
        "HARNESS_DATA_DIR": os.environ.get("HARNESS_DATA_DIR") or "not set",
    }
    return found | {f"data: {name}": where or "not found" for name, where in available()}


def compare(here: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A line for each node of a cluster: in which versions it differs from this machine."""
    lines = {}
    for name, there in nodes.items():
        told = [
            f"{what} {there.get(what, 'none')}, here {own}"
            for what, own in here.items()
            if there.get(what) != own
        ]
        lines[f"node {name}"] = "; ".join(told) if told else f"as here: {', '.join(here)}"
    return lines


def installed(package: str) -> str:
    """The version of a package, found without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes(limit: Path = CGROUP_LIMIT) -> int:
    """Of the machine, or of the container where that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return total
