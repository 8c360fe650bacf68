"""Reading run folders, whole and broken."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from harness.cost.ledger import LEDGER_COLUMNS
from harness.report import load
from harness.report.frames import flatten
from harness.types import ConfigError


def test_reads_every_file_of_a_run(write_run):
    write_run(seed=0)
    folder = write_run("fedprox", seed=3, digest="bbbbbbbb", config={"method": {"mu": 0.1}}).parent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = load(folder)
    runs = results.runs.set_index("run_id")
    run = runs.loc["fedprox-digits-bbbbbbbb-3"]
    assert (run["method"], run["task"], run["seed"], run["digest"]) == ("fedprox", "digits", 3, "bbbbbbbb")
    assert run["rounds"] == 3
    assert bool(run["finished"])
    assert run["metric"] == "accuracy"
    assert run["config.method.mu"] == 0.1
    assert run["config.task.augment"] == "[]"
    assert run["env.packages.torch"] == "2.9"
    assert run["eval/accuracy"] == pytest.approx(0.5)
    assert run["best/round"] == 1
    assert run["best/eval/accuracy"] == pytest.approx(0.6)
    assert run["total/tx_bytes"] == 30
    assert run["timing/wall_s"] == 1.5
    assert np.isnan(runs.loc["fedavg-digits-aaaaaaaa-0", "config.method.mu"])
    assert results.partitions["fedprox-digits-bbbbbbbb-3"].tolist() == [[3, 0, 1], [0, 5, 2]]


def test_rounds_carry_identity_and_running_costs(write_run):
    results = load(write_run(val=(0.5, None, 0.6), scale=2).parent)
    rounds = results.rounds
    assert rounds["run_id"].unique().tolist() == ["fedavg-digits-aaaaaaaa-0"]
    assert rounds["bytes"].tolist() == [60, 120, 180]
    assert rounds["flops"].tolist() == [2000, 4000, 6000]
    assert rounds["joules"].tolist() == [12, 24, 36]
    assert rounds["sim_s"].tolist() == [10, 20, 30]
    assert rounds["eval/accuracy"].isna().tolist() == [False, True, False]


def test_ledger_is_concatenated_or_left_out(write_run):
    write_run(seed=0)
    folder = write_run(seed=1).parent
    ledger = load(folder).ledger
    assert list(ledger.columns) == ["run_id", *LEDGER_COLUMNS]
    assert ledger.groupby("run_id")["flops"].sum().tolist() == [1000, 1000]
    assert load(folder, ledger=False).ledger.empty


def test_unfinished_run_is_read_from_its_rounds(write_run):
    folder = write_run(finished=False).parent
    with pytest.warns(UserWarning, match="unfinished, 3 rounds so far"):
        run = load(folder).runs.iloc[0]
    assert not run["finished"]
    assert run["best/round"] == 1
    assert run["best/eval/accuracy"] == pytest.approx(0.6)
    assert run["total/client_flops"] == 3000
    assert run["total/sim_s"] == 15


def test_rounds_after_a_damaged_line_are_not_read(write_run):
    folder = write_run()
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    (folder / "rounds.jsonl").write_text("\n".join([lines[0], lines[1][:40], lines[2]]))
    with pytest.warns(UserWarning, match=r"read up to here|tells of") as caught:
        results = load(folder.parent)
    told = " | ".join(str(w.message) for w in caught)
    assert "rounds.jsonl:2: read up to here" in told
    assert "tells of 3 rounds, rounds.jsonl holds 1" in told
    assert len(results.rounds) == 1
    assert not results.runs["finished"].iloc[0]
    assert results.runs["best/round"].iloc[0] == 0


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.yaml", "a: [", "left out"),
        ("config.yaml", "just text", "config.yaml is not a mapping"),
        ("config.yaml", "task: {name: digits}", "left out"),
        ("rounds.jsonl", "", "holds no finished round"),
        ("rounds.jsonl", "[1]\n", "a round is not a mapping"),
    ],
)
def test_unreadable_run_is_left_out_and_the_others_stay(write_run, name, content, told):
    write_run(seed=1)
    folder = write_run(seed=0)
    (folder / name).write_text(content)
    with pytest.warns(UserWarning, match=told):
        results = load(folder.parent)
    assert results.runs["seed"].tolist() == [1]


@pytest.mark.filterwarnings("ignore:.*ignored")
@pytest.mark.parametrize("content", ["{", "[]", '{"metrics": 1, "best": {}}'])
def test_damaged_summary_counts_as_unfinished(write_run, content):
    folder = write_run()
    (folder / "summary.json").write_text(content)
    with pytest.warns(UserWarning, match="counts as unfinished"):
        run = load(folder.parent).runs.iloc[0]
    assert not run["finished"]
    assert run["best/round"] == 1


def test_damaged_ledger_env_and_partition_are_ignored(write_run):
    folder = write_run()
    (folder / "ledger" / "3-5.parquet").write_bytes(b"PAR1 not really")
    (folder / "env.json").write_text("{")
    (folder / "partition.json").write_text(json.dumps({"label_counts": [[1], [2, 3]]}))
    with pytest.warns(UserWarning, match=r"left out|ignored|not a table of counts") as caught:
        results = load(folder.parent)
    assert len(caught) == 3
    assert len(results.ledger) == 0
    assert results.partitions == {}


def test_folder_with_a_foreign_name_is_left_out(write_run):
    folder = write_run()
    folder.rename(folder.parent / "copy")
    with pytest.warns(UserWarning, match="name is not"), pytest.raises(ConfigError, match="no readable run"):
        load(folder.parent)


def test_one_run_folder_can_be_given_itself(write_run):
    assert len(load(write_run()).runs) == 1


def test_empty_and_missing_folders_are_user_errors(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no readable run.*run\.results_dir"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_flatten():
    tree = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}], "f": None}
    assert flatten(tree) == {"a.b": 1, "a.c": "{}", "d": '[1, {"e": 2}]', "f": None}
