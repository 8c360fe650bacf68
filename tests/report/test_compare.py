"""Accuracy at a budget, by hand: a round costs 30 B, 1000 FLOP, 6 J and 5 s; test is val - 0.1."""

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.report import load
from harness.report.compare import (
    Budget,
    at_budget,
    bought,
    cost_to_target,
    last_within,
    parse_budget,
    summary,
    write,
)
from harness.types import ConfigError

JOULES = Budget("joules", 12)


@pytest.fixture
def runs(write_run):
    """avg: two seeds; prox: twice as dear; alone: exchanges nothing, and costs nothing."""
    write_run("avg", seed=0, val=(0.5, 0.8, 0.9))
    write_run("avg", seed=1, val=(0.5, None, 0.7))
    write_run("alone", digest="cccccccc", scale=0, val=(0.3, 0.4, 0.5))
    return load(write_run("prox", digest="bbbbbbbb", scale=2, val=(0.6, 0.9, 0.9)).parent)


def test_the_last_evaluation_within_the_budget_counts(runs):
    rows = at_budget(runs, JOULES).set_index(["variant", "seed"])
    # Two rounds of avg are 12 J; seed 1 was not evaluated after the second.
    assert rows.loc[("avg", 0), ["test", "val", "rounds", "at_joules", "at_bytes"]].tolist() == pytest.approx(
        [0.7, 0.8, 2, 12, 60]
    )
    assert rows.loc[("avg", 1), ["test", "rounds", "at_joules"]].tolist() == pytest.approx([0.4, 1, 6])
    assert rows.loc[("prox", 0), ["test", "rounds", "at_sim_s"]].tolist() == pytest.approx([0.5, 1, 10])
    assert rows["used_up"].to_dict() == {
        ("avg", 0): True,
        ("avg", 1): True,
        ("prox", 0): True,
        ("alone", 0): False,
    }


def test_what_exchanges_nothing_is_read_at_its_end(runs):
    alone = at_budget(runs, JOULES).set_index("variant").loc["alone"]
    assert alone["reference"]
    assert alone["test"] == pytest.approx(0.4)


def test_a_budget_below_the_first_round_buys_nothing(runs):
    rows = at_budget(runs, Budget("bytes", 59)).set_index("variant")
    assert math.isnan(rows.loc["prox", "test"])
    assert rows.loc["prox", "rounds"] == 0
    assert rows.loc["avg", "test"].tolist() == pytest.approx([0.4, 0.4])


def test_the_future_does_not_count(runs):
    rounds = runs.rounds[runs.rounds["run_id"] == "avg-digits-aaaaaaaa-0"]
    before = last_within(rounds, metric="accuracy", budget=JOULES)
    worse = rounds.assign(**{"eval/accuracy": rounds["eval/accuracy"].where(rounds["round"] < 2, 0.0)})
    assert last_within(worse, metric="accuracy", budget=JOULES) == before
    none = last_within(rounds, metric="accuracy", budget=None)
    assert none is not None
    assert none["round"] == 2


def test_means_intervals_and_order(runs):
    table = summary(at_budget(runs, JOULES))
    assert table["variant"].tolist() == ["avg", "prox", "alone"], "best first, references last"
    avg = table.iloc[0]
    assert avg["mean"] == pytest.approx(0.55)
    assert avg["std"] == pytest.approx(0.3 / math.sqrt(2))
    assert (avg["low"], avg["high"]) == (pytest.approx(0.4), pytest.approx(0.7))
    assert math.isnan(table.iloc[1]["low"]), "one seed has no interval"


def test_costs_to_a_target_need_every_seed(runs):
    costs = cost_to_target(runs, axis="joules", target=0.7).set_index("variant")
    # avg reaches 0.7 on val after two rounds and after three.
    assert costs.loc["avg", ["mean", "low", "high"]].tolist() == pytest.approx([15, 12, 18])
    costs = cost_to_target(runs, axis="joules", target=0.75).set_index("variant")
    assert costs.loc["avg", "reached"] == 1
    assert math.isnan(costs.loc["avg", "mean"])


def test_what_a_budget_buys_is_a_step_function(runs):
    mean, low, high = bought(runs, task="digits", axis="joules", grid=np.array([5.0, 6.0, 11.9, 12.0, 18.0]))[
        "avg"
    ]
    assert math.isnan(mean[0])
    assert mean[1:].tolist() == pytest.approx([0.4, 0.4, 0.55, 0.7])
    assert (low[3], high[3]) == (pytest.approx(0.4), pytest.approx(0.7))
    assert (low[1], high[1]) == (pytest.approx(0.4), pytest.approx(0.4))


def test_files_and_the_command(runs, tmp_path, monkeypatch):
    # The rest of the page has tests of its own, and takes seconds.
    monkeypatch.setattr("harness.report.html.page", lambda results, table, *, first: "".join(first))
    words = ["compare", str(runs.folder), "--budget", "joules=12", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = (tmp_path / "compare.md").read_text()
    assert "| avg | — | 2 | 55.0 ± 21.2 | 40.0 to 70.0 | 1.5 |" in told
    assert "what 12 J of client energy buys" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "b0-digits.png").read_bytes()[:4] == b"\x89PNG"


def test_a_target_out_of_reach_is_told(runs, tmp_path):
    with pytest.raises(ConfigError, match="write 0"):
        write(runs, [JOULES], out=tmp_path, target=80.0)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("joule=3", "did you mean joules"),
        ("joules", "must be a number > 0"),
        ("joules=-1", "must be a number > 0"),
        ("bytes=many", "got 'many'"),
    ],
)
def test_budgets_are_checked(word, told):
    with pytest.raises(ConfigError, match=told):
        parse_budget(word)
    assert parse_budget("bytes=1e6").told == "1 MB"
