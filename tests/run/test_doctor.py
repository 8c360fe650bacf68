from pathlib import Path

import pytest

from harness.run.doctor import compare, examine, installed, memory_bytes


def test_it_sees_packages_data_and_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    found = examine()
    assert found["Ray cluster"] == "10.0.0.1:6379"
    assert found["W&B"].startswith("online")
    assert "0" * 40 not in str(found), "a key is never shown"
    assert found["data: mnist"] == "not found"
    assert found["data: digits"] == "bundled with scikit-learn"
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert examine()["W&B"].startswith("offline")


def test_a_missing_package_is_no_error() -> None:
    assert installed("no-such-package-here") == "not installed"
    assert installed("torch")[0].isdigit()


def test_memory_is_the_containers_where_that_has_less(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    whole = memory_bytes(limit)
    limit.write_text("1000000\n")
    assert memory_bytes(limit) == 1_000_000
    limit.write_text("max\n")
    assert memory_bytes(limit) == whole


def test_a_clusters_nodes_are_compared_by_name() -> None:
    here = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}
    lines = compare(
        here, {"a": here, "b": here | {"torch": "2.12.1"}, "c": {"python": "3.12.0", "ray": "2.60.0"}}
    )
    assert lines == {
        "node a": "as here: python, ray, torch",
        "node b": "torch 2.12.1, here 2.13.0",
        "node c": "python 3.12.0, here 3.11.7; torch none, here 2.13.0",
    }
