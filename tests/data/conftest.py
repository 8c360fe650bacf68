"""Every test here has a cache of its own and no data folder, unless it asks for the real one."""

import os
from pathlib import Path

import pytest

_REAL = os.environ.get("HARNESS_DATA_DIR")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    for key in ("HARNESS_DATA_DIR", "HARNESS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HARNESS_DATA_DIR."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("HARNESS_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def real_data_dir(monkeypatch: pytest.MonkeyPatch) -> Path:
    """HARNESS_DATA_DIR as the tests were started with it."""
    if not _REAL:
        pytest.skip("HARNESS_DATA_DIR is not set")
    monkeypatch.setenv("HARNESS_DATA_DIR", _REAL)
    return Path(_REAL)
