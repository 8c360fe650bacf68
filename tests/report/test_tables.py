"""Means, deviations and costs to a target, by hand."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.config import CompressionConfig, as_dict
from harness.report import load, tables
from harness.types import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*unfinished")


def two_methods(write_run):
    """fedavg reaches val 0.8 with seed 0 in round 1, else never; fedprox, twice as dear, in round 0."""
    write_run("fedavg", seed=0, val=(0.5, 0.8, 0.7))
    write_run("fedavg", seed=1, val=(0.5, 0.6, 0.7))
    return load(write_run("fedprox", seed=0, digest="bbbbbbbb", val=(0.8, 0.9, 0.9), scale=2).parent)


def test_means_and_deviations(write_run):
    table = tables.comparison(two_methods(write_run), target=0.8)
    assert table["variant"].tolist() == ["fedprox", "fedavg"]  # best first
    prox, avg = table.iloc[0], table.iloc[1]
    assert avg["seeds"] == 2
    # Test is val - 0.1. Final: 0.6 and 0.6. Best val is 0.8 (round 1) and 0.7 (round 2): test 0.7 and 0.6.
    assert avg["final_mean"] == pytest.approx(0.6)
    assert avg["final_std"] == pytest.approx(0.0)
    assert avg["best_mean"] == pytest.approx(0.65)
    assert avg["best_std"] == pytest.approx(0.1 / math.sqrt(2))
    assert (avg["best_low"], avg["best_high"]) == (pytest.approx(0.6), pytest.approx(0.7))
    assert math.isnan(prox["best_std"])
    assert math.isnan(prox["best_low"])


def test_cost_to_target_is_read_on_validation_at_the_first_hit(write_run):
    table = tables.comparison(two_methods(write_run), target=0.8).set_index("variant")
    assert table["reached"].to_dict() == {"fedprox": 1, "fedavg": 1}
    # fedavg: after two rounds of 30 B, 1000 FLOPs, 6 J and 5 s; fedprox: after one, twice as dear.
    assert table.loc["fedavg", ["to_bytes", "to_flops", "to_joules", "to_sim_s"]].tolist() == [
        60,
        2000,
        12,
        10,
    ]
    assert table.loc["fedprox", ["to_bytes", "to_flops", "to_joules", "to_sim_s"]].tolist() == [
        60,
        2000,
        12,
        10,
    ]
    assert table.loc["fedavg", ["total_bytes", "total_joules", "total_server_flops"]].tolist() == [90, 18, 21]


def test_default_target_is_a_share_of_the_best_method(write_run):
    table = tables.comparison(two_methods(write_run)).set_index("variant")
    assert table["target"].tolist() == pytest.approx([0.95 * 0.9] * 2)
    assert table["reached"].to_dict() == {"fedprox": 1, "fedavg": 0}
    assert math.isnan(table.loc["fedavg", "to_bytes"])
    assert table.loc["fedprox", "to_bytes"] == 120


def test_default_target_leaves_out_points_of_reference(write_run):
    write_run("centralized", val=(0.9, 1.0, 1.0), scale=0)
    results = load(write_run("fedavg", digest="bbbbbbbb", val=(0.4, 0.5, 0.6)).parent)
    table = tables.comparison(results)
    assert table["target"].unique() == pytest.approx([0.95 * 0.6])
    assert tables.is_reference(table).tolist() == [True, False]


def test_target_out_of_range_is_a_user_error(write_run):
    with pytest.raises(
        ConfigError, match=r"target: accuracy lies between 0 and 1, got 85; write 0.8 for 80 %"
    ):
        tables.comparison(two_methods(write_run), target=85)


def test_unfinished_runs_count_only_where_none_finished(write_run):
    write_run("fedavg", seed=0, val=(0.5, 0.6, 0.7))
    write_run("fedavg", seed=1, val=(0.1,), finished=False)
    results = load(write_run("fedprox", digest="bbbbbbbb", val=(0.4,), finished=False).parent)
    table = tables.comparison(results).set_index("variant")
    assert table.loc["fedavg", ["seeds", "finished"]].tolist() == [1, 1]
    assert table.loc["fedavg", "best_mean"] == pytest.approx(0.6)
    assert table.loc["fedprox", ["seeds", "finished"]].tolist() == [1, 0]


def test_display_says_what_was_reached(write_run):
    shown = tables.display(tables.comparison(two_methods(write_run), target=0.8))
    assert shown["", "Method"].tolist() == ["fedprox", "fedavg"]
    assert shown["Test accuracy, %", "Best"].tolist() == ["80.0", "65.0 ± 7.1"]
    goal = "Cost to reach 80.0 % on validation"
    assert shown[goal, "Traffic, B"].tolist() == ["60.0", "60.0 (1 of 2)"]
    shown = tables.display(tables.comparison(two_methods_again(write_run), target=0.95))
    assert shown["Cost to reach 95.0 % on validation", "Client energy, J"].tolist() == ["not reached"] * 3


def two_methods_again(write_run):
    return load(write_run("fedsgd", digest="cccccccc", val=(0.1, 0.2, 0.3)).parent)


def test_labels_tell_the_differing_settings(write_run):
    for digest, mu, seed in (("aaaaaaaa", 0.1, 0), ("aaaaaaaa", 0.1, 1), ("bbbbbbbb", 1.0, 0)):
        write_run("fedprox", digest=digest, seed=seed, config={"method": {"mu": mu}})
    results = load(write_run("fedavg", digest="cccccccc").parent)
    labels = tables.label_variants(results.runs)
    assert dict(zip(results.runs["run_id"], labels, strict=True)) == {
        "fedavg-digits-cccccccc-0": "fedavg",
        "fedprox-digits-aaaaaaaa-0": "fedprox (mu=0.1)",
        "fedprox-digits-aaaaaaaa-1": "fedprox (mu=0.1)",
        "fedprox-digits-bbbbbbbb-0": "fedprox (mu=1)",
    }


def test_labels_name_a_section_by_its_name(write_run):
    write_run(config={"partition": {"name": "iid"}})
    results = load(write_run(digest="bbbbbbbb", config={"partition": {"name": "shards"}}).parent)
    assert tables.label_variants(results.runs).tolist() == [
        "fedavg (partition=iid)",
        "fedavg (partition=shards)",
    ]


def test_what_an_older_run_lacks_does_not_tell_it_apart(write_run):
    write_run("fpl", digest="aaaaaaaa", config={"method": {"junction": "f1"}})
    newer = {"method": {"junction": "f2", "micro_batches": 1}, "compression": as_dict(CompressionConfig())}
    results = load(write_run("fpl", digest="bbbbbbbb", config=newer).parent)
    assert sorted(tables.label_variants(results.runs)) == ["fpl (junction=f1)", "fpl (junction=f2)"]


def test_of_many_differences_none_is_what_an_older_run_lacks(write_run):
    older = {"method": {"junction": "f1"}, "task": {"a": 1, "b": 1, "c": 1}}
    newer = {"method": {"junction": "f1", "micro_batches": 1}, "task": {"a": 2, "b": 2, "c": 2}}
    write_run("fpl", digest="aaaaaaaa", config=older)
    write_run("fpl", digest="bbbbbbbb", config=newer)
    third = {"method": {"junction": "f1", "micro_batches": 4}, "task": {"a": 2, "b": 2, "c": 2}}
    results = load(write_run("fpl", digest="cccccccc", config=third).parent)
    labels = tables.label_variants(results.runs)
    assert labels.nunique() == 3
    assert not labels.str.contains("#").any()


def test_a_text_in_brackets_is_a_text(write_run):
    write_run("fedavg", digest="aaaaaaaa", config={"method": {"note": "[abc]"}})
    results = load(write_run("fedavg", digest="bbbbbbbb", config={"method": {"note": ["a", "b"]}}).parent)
    assert sorted(tables.label_variants(results.runs)) == ["fedavg (note=[abc])", "fedavg (note=a+b)"]


def test_compression_tells_variants_apart(write_run):
    write_run("fedavg", digest="aaaaaaaa")
    results = load(write_run("fedavg", digest="bbbbbbbb", config={"compression": {"name": "topk"}}).parent)
    assert sorted(tables.label_variants(results.runs)) == [
        "fedavg (compression=none)",
        "fedavg (compression=topk)",
    ]


def test_labels_of_many_differences_are_short(write_run):
    for digest, n in (("aaaaaaaa", 1), ("bbbbbbbb", 2)):
        write_run(digest=digest, config={"method": {"mu": n}, "task": {"a": n, "b": n, "model": str(n)}})
    results = load(write_run(digest="cccccccc", config={"method": {"mu": 2}, "task": {"a": 3}}).parent)
    labels = tables.label_variants(results.runs).tolist()
    assert labels == ["fedavg (a=1)", "fedavg (a=2)", "fedavg (a=3)"]


def test_as_many_differences_are_told_as_tell_variants_apart(write_run):
    for n in range(8):
        a, b, c = n & 1, n >> 1 & 1, n >> 2
        settings = {"mu": a, "lr": a, "momentum": a, "rank": b, "size": c}
        results = load(write_run(digest=f"{n:08x}", config={"method": settings}).parent)
    labels = tables.label_variants(results.runs)
    assert labels.nunique() == 8
    assert "fedavg (lr=1, rank=0, size=1)" in set(labels)


def test_labels_stay_apart_where_no_setting_tells(write_run):
    # The method's own name is no setting: it is the same in all variants of a method.
    write_run("mine:Fed")
    write_run("yours:Fed", digest="bbbbbbbb")
    results = load(write_run("yours:Fed", digest="cccccccc").parent)
    labels = tables.label_variants(results.runs)
    assert labels.nunique() == 3
    assert "bbbbbbbb" in labels.iloc[1]


def test_unequal_settings_are_named_but_seeds_and_methods_are_not(write_run):
    write_run(seed=0, config={"method": {"lr": 1.0}})
    results = load(write_run("x", seed=1, digest="bbbbbbbb", config={"partition": {"alpha": 9.0}}).parent)
    assert tables.unequal_settings(results.runs) == ["partition.alpha"]


@pytest.mark.parametrize(
    ("value", "quantity", "unit"),
    [
        (999, "bytes", "B"),
        (1_000_000, "bytes", "MB"),
        (2.5e9, "flops", "GFLOP"),
        (10.0, "flops", "MFLOP"),
        (0.5, "joules", "mJ"),
        (3600, "sim_s", "h"),
        (0, "sim_s", "ms"),
    ],
)
def test_units(value, quantity, unit):
    assert tables.scale_of(value, quantity).unit == unit


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12345.6, "12346"), (math.nan, "—")]
)
def test_significant(value, text):
    assert tables.significant(value) == text


def test_bootstrap_by_hand():
    # Of two values, a resample's mean is low, middle or high with chances 1/4, 1/2, 1/4.
    assert tables.bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)
    assert tables.bootstrap_interval([1.0, 3.0], level=0.4) == (2.0, 2.0)
    assert all(math.isnan(bound) for bound in tables.bootstrap_interval([1.0]))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.integers(0, 5))
def test_bootstrap_is_seeded_and_bounded(values, seed):
    low, high = tables.bootstrap_interval(values, resamples=200, seed=seed)
    assert (low, high) == tables.bootstrap_interval(values, resamples=200, seed=seed)
    slack = 1e-9 * max(map(abs, values), default=0) + 1e-12
    assert min(values) - slack <= low <= high <= max(values) + slack


def test_csv_keeps_every_digit(write_run):
    table = tables.comparison(two_methods(write_run), target=0.8)
    again = pd.read_csv(io.StringIO(tables.to_csv(table)))
    assert list(again.columns) == list(table.columns)
    np.testing.assert_array_equal(again["best_std"].to_numpy(), table["best_std"].to_numpy())


def test_markdown_keeps_its_columns_whatever_the_names(write_run):
    write_run("a|b", config={"method": {"name": "a|b"}})
    text = tables.to_markdown(tables.comparison(load(write_run("fedavg", digest="bbbbbbbb").parent)))
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "a\\|b" in text


def test_console_table_prints_markup_as_it_is(write_run):
    table = tables.comparison(load(write_run("[red]x", config={"method": {"name": "[red]x"}}).parent))
    console = Console(width=140, file=io.StringIO())
    for found in tables.to_rich(table):
        console.print(found)
    assert "[red]x" in console.file.getvalue()
    assert "60.0" in console.file.getvalue()
