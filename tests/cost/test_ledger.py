"""Sums over the ledger, by hand."""

import pandas as pd
import pytest

from harness.cost.ledger import COSTS, LEDGER_COLUMNS, Entry, Ledger, sum_costs
from harness.types import SERVER


def line(client: int, phase: str = "train", **values: float) -> Entry:
    return Entry(0, phase, client, "fit", "full", "ok", **values)  # type: ignore[arg-type]


ENTRIES = [
    line(0, flops=10, rx_bytes=3, tx_bytes=5, compute_j=1.0, link_j=0.5, idle_j=0.25),
    line(1, flops=20, rx_bytes=4, tx_bytes=6, compute_j=2.0, link_j=0.25, idle_j=0.125),
    line(SERVER, flops=7, compute_j=4.0, idle_j=8.0, link_j=0.5),
    line(0, "eval", flops=1000, rx_bytes=1000, tx_bytes=1000, compute_j=1000.0),
    line(SERVER, "eval", flops=1000, compute_j=1000.0),
    line(1, "setup", flops=1000, rx_bytes=1000, idle_j=1000.0),
]
SUMS = {
    "client_flops": 30,
    "server_flops": 7,
    "tx_bytes": 11,
    "rx_bytes": 7,
    "compute_j": 3.0,
    "link_j": 0.75,
    "idle_j": 0.375,
    "client_j": 4.125,
    "server_j": 12.5,
}


def ledger_of(entries: list[Entry]) -> Ledger:
    ledger = Ledger()
    for entry in entries:
        ledger.charge(entry)
    return ledger


def test_only_the_train_phase_counts_and_the_server_apart() -> None:
    frame, sums = ledger_of(ENTRIES).close_round()
    assert sums == SUMS == sum_costs(frame)
    assert tuple(SUMS) == COSTS


def test_the_table_holds_every_line_with_its_types() -> None:
    frame, _ = ledger_of(ENTRIES).close_round()
    assert len(frame) == len(ENTRIES)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == LEDGER_COLUMNS
    assert [tuple(row) for row in frame.itertuples(index=False)] == [tuple(e) for e in ENTRIES]


def test_counts_beyond_2_to_53_stay_exact() -> None:
    big = 2**60 + 1
    _, sums = ledger_of([line(0, flops=big), line(1, flops=big)]).close_round()
    assert sums["client_flops"] == 2 * big


def test_totals_grow_by_each_round_and_lines_leave() -> None:
    ledger = ledger_of(ENTRIES)
    ledger.close_round()
    ledger.charge(ENTRIES[1])
    frame, sums = ledger.close_round()
    assert len(frame) == 1
    assert sums["client_flops"] == 20
    assert ledger.totals == {name: SUMS[name] + sums[name] for name in COSTS}


def test_a_discarded_round_leaves_nothing() -> None:
    ledger = ledger_of(ENTRIES)
    ledger.discard()
    frame, sums = ledger.close_round()
    assert frame.empty
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == LEDGER_COLUMNS
    assert set(sums.values()) == {0}
    assert ledger.totals == dict.fromkeys(COSTS, 0)


@pytest.mark.parametrize("key", ["client", "endpoint", "round"])
def test_totals_are_group_bys(key: str) -> None:
    frame, _ = ledger_of(ENTRIES).close_round()
    parts = [sum_costs(part) for _, part in frame.groupby(key, observed=True)]
    assert pd.DataFrame(parts).sum().to_dict() == SUMS
