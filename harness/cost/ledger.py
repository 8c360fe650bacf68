"""The ledger: one append-only table of every exchange and every step. Each total is a group-by over it."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from harness.types import SERVER, Phase

LEDGER_COLUMNS = {
    "round": "int32",
    "phase": "category",
    "client": "int64",
    "endpoint": "category",
    "submodel": "category",
    "status": "category",
    "flops": "int64",
    "rx_bytes": "int64",
    "tx_bytes": "int64",
    "compute_s": "float64",
    "link_s": "float64",
    "idle_s": "float64",
    "compute_j": "float64",
    "link_j": "float64",
    "idle_j": "float64",
}
"""Columns of the ledger; client -1 is the server; bytes are seen from the client (rx = downlink)."""

COSTS = (
    "client_flops",
    "server_flops",
    "tx_bytes",
    "rx_bytes",
    "compute_j",
    "link_j",
    "idle_j",
    "client_j",
    "server_j",
)
"""What a round is summed up to, train phase alone. client_j = compute_j + link_j + idle_j, the clients'."""


class Entry(NamedTuple):
    """One line: what one party did for one exchange (or while it waited)."""

    round: int
    phase: str
    client: int
    endpoint: str
    submodel: str
    status: str
    flops: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    compute_s: float = 0.0
    link_s: float = 0.0
    idle_s: float = 0.0
    compute_j: float = 0.0
    link_j: float = 0.0
    idle_j: float = 0.0


class Ledger:
    """Collects a round's entries and keeps the running totals; the lines themselves go to files."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self.totals: dict[str, int | float] = dict.fromkeys(COSTS, 0)

    def charge(self, entry: Entry) -> None:
        """Append one line."""
        self._entries.append(entry)

    def close_round(self) -> tuple[pd.DataFrame, Mapping[str, int | float]]:
        """This round's lines as a table and its train-phase sums; both leave the ledger."""
        frame = pd.DataFrame(self._entries, columns=list(LEDGER_COLUMNS)).astype(LEDGER_COLUMNS)
        sums = sum_costs(frame)
        self._entries = []
        self.totals = {name: self.totals[name] + sums[name] for name in COSTS}
        return frame, sums

    def discard(self) -> None:
        """Forget the lines of a round that is played again."""
        self._entries = []


def sum_costs(frame: pd.DataFrame) -> dict[str, int | float]:
    """COSTS of the train phase of a ledger table."""
    train = frame[frame["phase"] == Phase.TRAIN]
    at_server = train["client"] == SERVER
    clients, server = train[~at_server], train[at_server]
    compute_j, link_j, idle_j = (float(clients[name].sum()) for name in ("compute_j", "link_j", "idle_j"))
    return {
        "client_flops": int(clients["flops"].sum()),
        "server_flops": int(server["flops"].sum()),
        "tx_bytes": int(clients["tx_bytes"].sum()),
        "rx_bytes": int(clients["rx_bytes"].sum()),
        "compute_j": compute_j,
        "link_j": link_j,
        "idle_j": idle_j,
        "client_j": compute_j + link_j + idle_j,
        "server_j": float(server[["compute_j", "link_j", "idle_j"]].to_numpy().sum()),
    }
