"""Where a run was made: everything beyond its configuration that may change a bit or a second of it."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from harness.config import Config

PACKAGES = ("torch", "lightning", "ray", "omegaconf", "numpy", "pandas", "pyarrow", "scipy")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES")


def describe_environment(cfg: Config) -> dict[str, object]:
    """Code, packages, processor, GPUs and numerical settings, as plain JSON values."""
    return {
        "git": describe_git(Path.cwd()) or describe_git(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "gpus": _gpu_names(),
        "torch": {
            "cuda": torch.version.cuda,
            "blas": _first(r"BLAS_INFO=(\w+)", torch.__config__.show()),
            "parallel": _first(r"ATen parallel backend: (\w+)", torch.__config__.parallel_info()),
            "openmp": torch.backends.openmp.is_available(),
            "mkl": torch.backends.mkl.is_available(),
            "client_threads": cfg.runtime.client_threads,
            "server_threads": cfg.runtime.server_threads,
        },
        "deterministic": {
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }


def describe_git(folder: Path) -> dict[str, object] | None:
    """Commit and whether tracked files differ from it; None where there is no commit."""
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if commit is None:
        return None
    changes = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return _first(r"model name\s*:\s*(.+)", text) or platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    if not torch.cuda.device_count():
        return []
    # Asked of the driver's tool: torch would set the GPU up and hold memory on it in a process without need.
    names = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    if names is None:
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return names.splitlines()


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1].strip() if match else None
