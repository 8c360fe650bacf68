"""A fleet read from a table, so that traces of real devices can be used.

CSV or Parquet, a row per device. Every column is optional, an empty cell leaves what the profile says:

    profile                  a name from `harness list profiles`; default: dealt by fleet.profiles
    max_frequency_hz, flops_per_cycle, kappa, memory_bytes, battery_j, idle_w, tx_w, rx_w, tx_bps, rx_bps
    bandwidth_hz, distance_m for fleet.link.model shannon or lte
    available                spans of simulated seconds, such as "0-3600;7200-9000"; empty: always

Row k is client k. A table of another length than the federation is dealt at random by the seed.

Shape letters: K clients, R rows.
"""

import re
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config import FleetConfig, nearest, require
from harness.cost.devices import DeviceProfile
from harness.scheduling.windows import Windows
from harness.types import DataError

CONSTANTS: Final = tuple(f.name for f in fields(DeviceProfile))
LINKS: Final = ("bandwidth_hz", "distance_m")
COLUMNS: Final = ("profile", *CONSTANTS, *LINKS, "available")
MAY_BE_ZERO: Final = ("kappa", "idle_w", "tx_w", "rx_w", "battery_j")
SPAN: Final = re.compile(r"\s*([0-9.eE+]+)\s*-\s*([0-9.eE+]+|inf)\s*")


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """The rows dealt to the clients."""

    rows: pd.DataFrame
    """[K] some of COLUMNS, checked."""

    def column(self, name: str, default: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K] numbers, `default` [K] where the table says nothing."""
        if name not in self.rows:
            return default
        given = self.rows[name].to_numpy(np.float64)
        return np.where(np.isnan(given), default, given)

    def profiles(self) -> list[str] | None:
        """[K] names, where the table has them; empty text for a client without."""
        if "profile" not in self.rows:
            return None
        return [str(name) for name in self.rows["profile"].fillna("")]

    def windows(self, *, period_s: float | None) -> Windows | None:
        """When each client is available; None where the table does not say."""
        if "available" not in self.rows:
            return None
        spans = [
            (client, start, end)
            for client, text in enumerate(self.rows["available"].fillna("").astype(str))
            for start, end in parse_spans(text)
        ]
        client, start_s, end_s = (np.array(column) for column in zip(*spans, strict=True))
        return Windows(
            num_clients=len(self.rows),
            client=client.astype(np.int64),
            start_s=start_s.astype(np.float64),
            end_s=end_s.astype(np.float64),
            period_s=period_s,
        )


def read_table(cfg: FleetConfig, *, num_clients: int, rng: np.random.Generator) -> DeviceTable:
    """The table of `fleet.table`, dealt to the clients. Raises ConfigError naming file, row and column."""
    assert cfg.table is not None
    table = _read(Path(cfg.table))
    require(len(table) > 0, f"fleet.table={cfg.table}: holds no rows")
    for name in table.columns:
        require(name in COLUMNS, f"fleet.table={cfg.table}: unknown column {name!r}{nearest(name, COLUMNS)}")
    for name in set(table.columns) & {*CONSTANTS, *LINKS}:
        table[name] = _numbers(table[name], file=cfg.table)
    if "available" in table:
        for row, text in enumerate(table["available"].fillna("").astype(str)):
            where = f"fleet.table={cfg.table}, row {row}: available"
            require(bool(parse_spans(text)), f"{where} must be spans such as 0-3600;7200-9000, got {text!r}")
    if cfg.link.model == "profile" and set(LINKS) & set(table.columns):
        told = "fleet.table: distances and bands have no effect with fleet.link.model=profile"
        warnings.warn(told, stacklevel=2)
    if len(table) != num_clients:
        table = table.iloc[rng.choice(len(table), size=num_clients, replace=len(table) < num_clients)]
    return DeviceTable(table.reset_index(drop=True))


def parse_spans(text: str) -> list[tuple[float, float]]:
    """`0-10;20-30` as pairs, empty text as always; an empty list for what is neither."""
    if not text.strip():
        return [(0.0, np.inf)]
    found = []
    for part in text.split(";"):
        span = SPAN.fullmatch(part)
        if span is None:
            return []
        start, end = float(span[1]), float(span[2])
        if end <= start:
            return []
        found.append((start, end))
    return found


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"fleet.table={path}: cannot be read ({' '.join(str(error).split())})") from None


def _numbers(column: "pd.Series[float]", *, file: str) -> "pd.Series[float]":
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    least = 0.0 if column.name in MAY_BE_ZERO else np.nextafter(0.0, 1.0)
    odd = (numbers.isna() & column.notna()) | (numbers < least)
    if odd.any():
        row = int(np.flatnonzero(odd)[0])
        bound = ">= 0" if column.name in MAY_BE_ZERO else "> 0"
        raise DataError(
            f"fleet.table={file}, row {row}: {column.name} must be {bound}, got {str(column.iloc[row])!r}"
        )
    return numbers
