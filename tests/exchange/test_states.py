"""Files of client states."""

import os
from pathlib import Path

import pytest
import torch

from harness.exchange.states import StateStore
from harness.types import ClientId

ALICE, BOB = ClientId(1), ClientId(12)


def test_versions_of_clients_are_kept_apart(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "deep" / "folder")
    for client, version in ((ALICE, "2"), (ALICE, "12"), (BOB, "2")):
        store.save(client, version, {"w": torch.tensor([float(client), float(version)]), "n": version})
    for client, version in ((ALICE, "2"), (ALICE, "12"), (BOB, "2")):
        state = store.load(client, version)
        assert state["w"].tolist() == [client, int(version)]
        assert state["n"] == version


def test_a_replayed_round_overwrites(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.save(ALICE, "0", {"n": 1})
    store.save(ALICE, "0", {"n": 2})
    assert store.load(ALICE, "0") == {"n": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["1@0.pt"]


def test_an_interrupted_write_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(tmp_path)
    store.save(ALICE, "0", {"n": 1})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        store.save(ALICE, "0", {"n": 2})
    assert store.load(ALICE, "0") == {"n": 1}


def test_dropping_is_exact_and_may_come_twice(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    for version in range(3):
        store.save(ALICE, str(version), {"n": version})
    for _ in range(2):
        store.drop([(ALICE, "0"), (ALICE, "1")])
    assert [p.name for p in tmp_path.iterdir()] == ["1@2.pt"]


def test_a_missing_version_says_which(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"1@7\.pt"):
        StateStore(tmp_path).load(ALICE, "7")


def test_code_is_not_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    store = StateStore(tmp_path)
    torch.save({"x": Evil()}, store.path(ALICE, "0"))
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        store.load(ALICE, "0")
    assert not (tmp_path / "owned").exists()
