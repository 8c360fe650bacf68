import os

import pytest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill needs no fsync, only a power cut does, and there are thousands in the tests of kills."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
