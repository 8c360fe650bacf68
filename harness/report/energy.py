"""Energy and carbon of each variant: what `price` says of the devices, beside what the simulation used."""

from html import escape

import pandas as pd

from harness.cost.carbon import carbon_g, grid_of
from harness.report import tables
from harness.report.markup import table_of

HEAD = ("Method", "Clients", "Server", "Carbon of both", "Measured here", "Carbon of that")


def grid_for(runs: pd.DataFrame, *, grid: str | None) -> str:
    """The grid asked for, or else that of all runs, or else FPL's. Raises ConfigError for an unknown one."""
    told = set(runs["config.log.grid"].dropna()) if "config.log.grid" in runs else set()
    chosen = grid or (str(next(iter(told))) if len(told) == 1 else "fpl")
    grid_of(chosen)
    return chosen


def energy_table(runs: pd.DataFrame, *, grid: str | None = None) -> str:
    """A row per variant, means over its finished runs: joules, grams of carbon. HTML; empty without any."""
    chosen = grid_for(runs, grid=grid)
    rows = []
    finished = runs[runs["finished"].astype(bool)]
    for variant, group in finished.groupby("variant", sort=True):
        client, server, measured = (
            float(group[column].mean()) if column in group else float("nan")
            for column in ("total/client_j", "total/server_j", "energy/measured_j")
        )
        shown = [_joules(client), _joules(server), _grams(client + server, chosen)]
        rows.append([str(variant), *shown, _joules(measured), _grams(measured, chosen)])
    if not rows:
        return ""
    told = grid_of(chosen)
    note = (
        f"Carbon at {told.kg_per_kwh:g} kg/kWh ({chosen}: {told.source}). Clients and server are priced as "
        "the devices that the configuration names; measured is what the machine spent that simulated them"
        f"{_by(finished)}."
    )
    return f'<h3>Energy and carbon</h3>{table_of(HEAD, rows, left=1)}<p class="notes">{escape(note)}</p>'


def _by(runs: pd.DataFrame) -> str:
    words = sorted(set(runs["energy/measured_by"].dropna())) if "energy/measured_by" in runs else []
    return f", by {' or '.join(words)}" if words else ""


def _joules(value: float) -> str:
    if not value > 0:
        return "—"
    scale = tables.scale_of(value, "joules")
    return f"{tables.significant(value / scale.factor)} {scale.unit}"


def _grams(joules: float, grid: str) -> str:
    grams = carbon_g(joules, grid=grid)
    if not grams > 0:
        return "—"
    for factor, unit in ((1e3, "kg"), (1.0, "g"), (1e-3, "mg"), (1e-6, "µg")):
        if grams >= factor:
            return f"{tables.significant(grams / factor)} {unit}"
    return f"{grams * 1e9:.3g} ng"
