"""The commands as a user types them, in this process."""

import json
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.run.method import method_names

TINY = [
    "task=synthetic",
    "model=logistic",
    "partition.num_clients=3",
    "run.num_rounds=2",
    "runtime.transport=local",
]


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `harness words...`."""
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "task=digts"], "task.name: unknown task 'digts'; did you mean digits?"),
        (["run", "scheduler.cohort_size=99"], "scheduler.cohort_size must be <= partition.num_clients"),
        (["run", "partition.num_clients=5000", "task=digits"], "partition.min_examples"),
        (["run", "fleet.profiles={phon: 1}"], "did you mean phone?"),
        (["run", "scheduler=unifrom"], "did you mean uniform?"),
        (["run", "method.lr=-1"], "method.lr must be > 0"),
        (["run", "model=cnn", "task=npz", "task.path=none.npz"], "none.npz"),
        (["run", "--config", "none.yaml"], "none.yaml: cannot be read"),
        (["describe", "method.mmu=1"], "method.mmu: unknown key; did you mean mu?"),
        (["list", "metods"], "did you mean methods?"),
        (["report", "nowhere"], "nowhere"),
        (["sweep", "none.yaml"], "none.yaml"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    extra = ["runtime.transport=local"] if words[0] == "run" else []
    assert call(monkeypatch, *words, *extra) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_run_prints_a_summary_and_reads_a_finished_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "run", *TINY, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert set(first) == {
        *("run_id", "method", "task", "seed", "rounds", "metrics", "totals", "best", "energy", "timings"),
    }
    assert {"client_flops", "server_flops", "tx_bytes", "rx_bytes", "compute_j", "link_j", "sim_s"} <= set(
        first["totals"]
    )
    assert first["rounds"] == 2
    assert call(monkeypatch, "run", *TINY, "--json") == 0
    assert json.loads(capsys.readouterr().out) == first
    assert call(monkeypatch, "report", "results") == 0
    assert "fedavg" in capsys.readouterr().out
    assert (tmp_path / "results" / "report" / "report.html").exists()


def test_describe_counts_without_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "describe", "task=cifar10", "model=lenet", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"method", "task", "models", "exchanges"}
    assert set(found["models"][0]) == {"name", "params", "macs_forward", "flops_train", "bytes"}
    assert set(found["exchanges"][0]) == {"endpoint", "submodel", "rx_bytes", "tx_bytes"}
    assert (
        found["exchanges"][0]["tx_bytes"] == found["models"][0]["bytes"] == 4 * found["models"][0]["params"]
    )


@pytest.mark.parametrize("kind", ["methods", "tasks", "models", "policies", "profiles", "partitions"])
def test_every_name_is_listed_with_a_line(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "list", kind) == 0
    assert kind in capsys.readouterr().out
    assert call(monkeypatch, "list", kind, "--json") == 0
    names = json.loads(capsys.readouterr().out)
    assert names == sorted(names)
    assert kind != "methods" or names == method_names()


def test_data_and_doctor_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "data", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["synthetic"]
    assert call(monkeypatch, "doctor", "--json") == 0
    assert "torch" in json.loads(capsys.readouterr().out)
