"""Large tensors that need not fit in memory."""

import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def scratch(shape: Sequence[int], dtype: torch.dtype, *, budget_bytes: float, what: str) -> Tensor:
    """An uninitialised tensor, in memory up to `budget_bytes`, else mapped from a temporary file.

    The file has no name: it is gone with the tensor, however the process ends. Its pages count as memory of
    this process only while they are in use. `what` names the tensor in the warning that it spills.
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
        return torch.from_file(path, shared=True, size=numel, dtype=dtype).reshape(*shape)
