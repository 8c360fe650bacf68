"""What is sent to a cluster, and what is not; no Ray is started here."""

import shlex
import subprocess
from pathlib import Path

import pytest

from harness.types import ConfigError
from ray_actors.fetch import list_runs, pack, unpack
from ray_actors.jobs import COMMANDS, client_of, entrypoint, environment
from ray_actors.nodes import survey


def test_a_command_runs_on_the_cluster_and_leaves_its_results_on_the_head() -> None:
    assert entrypoint(["run", "task=digits", "method.lr=0.1 x"]) == (
        "python -m harness.cli run task=digits 'method.lr=0.1 x' runtime.address=auto "
        'run.results_dir="$HOME/harness-results"'
    )
    assert entrypoint(["sweep", "s.yaml", "--set", "run.results_dir=/shared"]) == (
        "python -m harness.cli sweep s.yaml --set run.results_dir=/shared --set runtime.address=auto"
    )


def test_results_are_gathered_whatever_became_of_the_runs(tmp_path: Path) -> None:
    command = entrypoint(["sweep", "s.yaml"], results=str(tmp_path), to="s3://bucket/a b")
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$@" >> "$LOG"\n[ "$3" = gather ] || exit 3\n')
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOG": str(tmp_path / "log")}
    assert subprocess.run(command, shell=True, env=env, check=False).returncode == 3
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.endswith(f"runtime.address=auto --set run.results_dir={tmp_path}")
    assert shlex.split(second)[:4] == ["-m", "harness.cli", "gather", str(tmp_path)]
    assert second.endswith("s3://bucket/a b")


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "give a command"), (["report"], "cannot send 'report'; did you mean re"), (["x"], "choose one of")],
)
def test_what_makes_no_job_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        entrypoint(words)
    assert set(COMMANDS) == {"run", "sweep", "reproduce"}


def test_the_environment_holds_code_and_reinstalls_nothing(tmp_path: Path) -> None:
    own = environment(tmp_path, {"A": "b"})
    assert set(own) == {"working_dir", "excludes", "env_vars", "py_modules"}
    assert (own["working_dir"], own["env_vars"]) == (str(tmp_path), {"A": "b"})
    assert [Path(path).name for path in own["py_modules"]] == ["harness", "lightning_modules", "ray_actors"]
    root = Path(__file__).parents[2]
    assert "py_modules" not in environment(root, {})  # the folder has them


def test_excludes_leave_out_results_and_keep_the_code() -> None:
    from ray._private.runtime_env.packaging import _get_excludes

    root = Path(__file__).parents[2]
    left_out = _get_excludes(root, environment(root, {})["excludes"])
    kept = ("harness/data/partition.py", "harness/cli.py", "sweeps/demo.yaml", "ray_actors/jobs.py", "own.py")
    gone = (
        "results/x/rounds.jsonl",
        "data/mnist.gz",
        ".venv/bin/python",
        ".git/HEAD",
        "harness/__pycache__/a.pyc",
    )
    assert [name for name in kept if left_out(root / name)] == []
    assert [name for name in gone if not left_out(root / name)] == []


def test_nobody_at_the_address_is_one_line() -> None:
    for ask in (client_of, survey):
        with pytest.raises(ConfigError, match=r"no Ray cluster answers \(.*refused"):
            ask("127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"127.0.0.1:1: no Ray cluster answers"):
        client_of("http://127.0.0.1:1")


def test_a_dashboard_is_not_the_address_of_a_cluster() -> None:
    with pytest.raises(ConfigError, match=r"that is its dashboard; give head:6379 or ray://head:10001"):
        survey("http://127.0.0.1:8265")


def test_a_run_is_packed_without_its_lock_and_replaced_as_a_whole(tmp_path: Path) -> None:
    run = tmp_path / "there" / "r"
    (run / "ledger").mkdir(parents=True)
    for name in ("config.yaml", "lock", "ledger/0-1.parquet"):
        (run / name).write_text(name)
    assert list_runs(str(run.parent)) == {"r": b""}
    (run / "summary.json").write_text("{}")
    assert list_runs(str(run.parent)) == {"r": b"{}"}
    here = tmp_path / "here" / "r"
    here.mkdir(parents=True)
    (here / "old").touch()
    unpack(pack(str(run.parent), "r"), here)
    found = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())
    assert found == ["config.yaml", "ledger/0-1.parquet", "summary.json"]
    assert [path.name for path in here.parent.iterdir()] == ["r"]
