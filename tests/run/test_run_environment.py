import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from run_maker import make_config

from harness.run.environment import describe_environment, describe_git


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)
    return done.stdout.decode().strip()


def test_commit_and_dirt(tmp_path: Path) -> None:
    assert describe_git(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert describe_git(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert describe_git(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "new").write_text("not tracked, as results are")
    assert describe_git(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert describe_git(tmp_path) == {"commit": commit, "dirty": True}


def test_the_description_is_plain_json_with_installed_versions(tmp_path: Path) -> None:
    found = describe_environment(make_config(tmp_path, "runtime.client_threads=3"))
    assert json.loads(json.dumps(found)) == found
    for package in ("torch", "lightning", "ray", "omegaconf", "numpy", "pandas"):
        assert found["packages"][package] == metadata.version(package)  # type: ignore[index]
    assert found["torch"]["client_threads"] == 3  # type: ignore[index]
    assert found["torch"]["blas"]  # type: ignore[index]
    assert found["cpu"]["model"]  # type: ignore[index]


def test_the_working_directory_names_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "empty", "--allow-empty")
    monkeypatch.chdir(tmp_path)
    found = describe_environment(make_config(tmp_path))
    assert found["git"] == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
