"""Large tensors that need not fit in memory."""

import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.types import ConfigError


def scratch(shape: Sequence[int], dtype: torch.dtype, *, budget_bytes: float, what: str) -> Tensor:
    """An uninitialised tensor, in memory up to `budget_bytes`, else mapped from a temporary file.

    The file has no name: it is gone with the tensor, however the process ends. Its pages count as memory of
    this process only while they are in use. `what` names the tensor in the warning that it spills.
    Raises ConfigError where the disk has no room for it.
    """
    numel = math.prod(shape)
    num_bytes = numel * dtype.itemsize
    if num_bytes <= budget_bytes:
        return torch.empty(*shape, dtype=dtype)
    warnings.warn(
        f"{what}: {num_bytes / 1e6:,.0f} MB exceed the budget of {budget_bytes / 1e6:,.0f} MB; "
        f"kept in a file under {tempfile.gettempdir()}",
        stacklevel=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scratch")
        try:
            # All of it at once: a disk that fills up later would kill the process without a word.
            with open(path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            raise ConfigError(
                f"{what}: {num_bytes / 1e6:,.0f} MB do not fit under {folder} ({error.strerror}); "
                "raise the budget or set TMPDIR to a larger disk"
            ) from None
        return torch.from_file(path, shared=True, size=numel, dtype=dtype).reshape(*shape)
