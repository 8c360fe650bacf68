"""Tensors that need not fit in memory."""

import errno
import os
import warnings
from pathlib import Path

import pytest
import torch

from harness.learning.scratch import scratch
from harness.types import ConfigError


def test_within_the_budget_it_is_a_tensor_like_any_other() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scratch((3, 5), torch.float16, budget_bytes=30, what="x").shape == (3, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_beyond_it_lies_in_a_file_that_nobody_sees(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(UserWarning, match=r"things: 0 MB exceed the budget of 0 MB; kept in a file under"):
        room = scratch((64, 5), dtype, budget_bytes=0, what="things")
    assert not list(tmp_path.iterdir())
    values = torch.randn(64, 5).to(dtype)
    room[:] = values
    assert torch.equal(room[torch.tensor([3, 60])], values[torch.tensor([3, 60])])


def test_a_full_disk_is_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.warns(UserWarning, match="exceed the budget"),
        pytest.raises(ConfigError, match=r"things: 0 MB do not fit under .*No space left.*set TMPDIR"),
    ):
        scratch((64, 5), torch.float32, budget_bytes=0, what="things")
