"""Figures of what a scheduler planned: who got which submodel, at which clock and rate.

Read back from the ledger: a clock is FLOPs over seconds of computing, a rate bytes over seconds of sending,
on the devices that the run's configuration deals.

Shape letters: K clients, R rounds.
"""

from typing import Any, Final

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness import loading
from harness.report.curves import COLOURS, INK, MARKERS, Picture, render
from harness.report.frames import Results, read_ledger
from harness.run.method import method_config
from harness.scheduling.fleet import Fleet, build_fleet
from harness.types import SERVER, ConfigError

PREFIX: Final = "scheduler/share/"
MOST_RUNS: Final = 6
"""Variants of a task whose plans are drawn."""
MOST_CLIENTS: Final = 200
"""Clients drawn; of more, evenly spaced ones."""


def plan_pictures(results: Results, runs: pd.DataFrame, *, key: str) -> list[Picture]:
    """Two figures for each variant that hands out several submodels, of its lowest seed."""
    mixed = runs[runs["run_id"].isin(mixed_runs(results))].sort_values("seed")
    first = mixed.drop_duplicates("variant").sort_values("variant")
    pictures = []
    for number, run in enumerate(first.head(MOST_RUNS).to_dict("records")):
        folder = results.folder / str(run["run_id"])
        folder = folder if folder.is_dir() else results.folder
        ledger = trained(read_ledger(folder))
        told = f"{run['variant']}, seed {run['seed']}"
        if len(ledger):
            pictures.append(assignment_picture(ledger, told=told, key=f"{key}-plan{number}"))
            fleet = fleet_of(folder / "config.yaml")
            if fleet is not None:
                pictures.append(points_picture(ledger, fleet, told=told, key=f"{key}-points{number}"))
    return pictures


def mixed_runs(results: Results) -> list[str]:
    """Runs in which more than one submodel was handed out."""
    columns = [c for c in results.rounds.columns if str(c).startswith(PREFIX)]
    used = (results.rounds[columns].fillna(0) > 0).groupby(results.rounds["run_id"]).any()
    return [str(run_id) for run_id in used.index[used.sum(axis=1) > 1]]


def trained(ledger: pd.DataFrame) -> pd.DataFrame:
    """The lines of clients' training: round, client, submodel, work and seconds."""
    lines = ledger[(ledger["phase"] == "train") & (ledger["client"] != SERVER)]
    lines = lines[(lines["submodel"].astype(str) != "") & (lines["flops"] > 0)]
    return lines.assign(submodel=lines["submodel"].astype(str))


def fleet_of(file: Any) -> Fleet | None:
    """The devices of a stored configuration; None where they cannot be dealt again (a table is gone)."""
    try:
        cfg = loading.load(method_config=method_config, tree=yaml.safe_load(file.read_text()))
        return build_fleet(cfg.fleet, num_clients=cfg.partition.num_clients, seed=cfg.run.seed)
    except (ConfigError, OSError):
        return None


def assignments(ledger: pd.DataFrame) -> tuple[NDArray[np.int64], list[str]]:
    """[K, R] which submodel each client trained in each round, -1 for none; and the submodels' names.

    Rows are ordered by a client's first submodel, then by id.
    """
    names = sorted(ledger["submodel"].unique())
    clients = np.sort(ledger["client"].unique())
    if len(clients) > MOST_CLIENTS:
        clients = clients[np.linspace(0, len(clients) - 1, MOST_CLIENTS).astype(int)]
    table = np.full((len(clients), int(ledger["round"].max()) + 1), -1, dtype=np.int64)
    shown = ledger[ledger["client"].isin(clients)]
    rows = np.searchsorted(clients, shown["client"].to_numpy())
    table[rows, shown["round"].to_numpy()] = [names.index(name) for name in shown["submodel"]]
    first = table[np.arange(len(table)), (table >= 0).argmax(axis=1)]
    return table[np.argsort(first, kind="stable")], names


def assignment_picture(ledger: pd.DataFrame, *, told: str, key: str) -> Picture:
    """Clients down, rounds across, a colour for each submodel; blank where a client did not train."""
    table, names = assignments(ledger)
    title = f"Submodels over rounds: {told}"

    def draw(axes: Axes) -> None:
        masked = np.ma.masked_less(table, 0)
        axes.imshow(
            masked,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            cmap=ListedColormap(COLOURS[: max(len(names), 1)]),
            vmin=-0.5,
            vmax=len(names) - 0.5,
            extent=(-0.5, table.shape[1] - 0.5, -0.5, table.shape[0] - 0.5),
        )
        axes.grid(False)
        axes.set(xlabel="Round", ylabel="Clients, by their first submodel")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        for index, name in enumerate(names):
            axes.scatter([], [], s=40, marker="s", color=COLOURS[index % len(COLOURS)], label=name)

    counts = [
        f"{name} {float((table == i).sum() / max((table >= 0).sum(), 1)):.0%}" for i, name in enumerate(names)
    ]
    idle = int((table < 0).sum())
    caption = f"Share of all trainings: {', '.join(counts)}."
    caption += f" Blank: {idle} times a client did not take part." if idle else ""
    svg = render(draw, key=key, title=title, description=caption, entries=names)
    return Picture(key=key, title=title, caption=caption, svg=svg)


def operating_points(ledger: pd.DataFrame, fleet: Fleet) -> pd.DataFrame:
    """A row per client: its submodel, clock in GHz and uplink rate in Mbit/s in its first round."""
    first = ledger.sort_values("round").drop_duplicates("client").sort_values("client")
    devices = fleet.take(first["client"].to_numpy())
    cycles = first["flops"].to_numpy() / devices.flops_per_cycle
    up_s = first["link_s"].to_numpy() - 8 * first["rx_bytes"].to_numpy() / devices.rx_bps
    with np.errstate(divide="ignore", invalid="ignore"):
        clock = cycles / first["compute_s"].to_numpy() / 1e9
        rate = 8 * first["tx_bytes"].to_numpy() / up_s / 1e6
    return pd.DataFrame(
        {
            "client": first["client"].to_numpy(),
            "submodel": first["submodel"].to_numpy(),
            "ghz": clock,
            "mbps": rate,
        }
    )


def points_picture(ledger: pd.DataFrame, fleet: Fleet, *, told: str, key: str) -> Picture:
    """A point per client: uplink rate across, clock up, colour and marker by submodel."""
    points = operating_points(ledger, fleet)
    names = sorted(points["submodel"].unique())
    title = f"Clock and rate of each client: {told}"

    def draw(axes: Axes) -> None:
        for index, name in enumerate(names):
            rows = points[points["submodel"] == name]
            axes.scatter(
                rows["mbps"],
                rows["ghz"],
                s=24,
                label=name,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                edgecolors=INK,
                linewidths=0.3,
                alpha=0.85,
            )
        axes.set(xlabel="Uplink rate, Mbit/s", ylabel="Clock, GHz")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)

    spans = [
        f"{name} {rows['ghz'].min():.2g} to {rows['ghz'].max():.2g} GHz"
        for name, rows in points.groupby("submodel", sort=True)
    ]
    caption = f"As planned in each client's first round. {'; '.join(spans)}."
    svg = render(draw, key=key, title=title, description=caption, entries=names)
    return Picture(key=key, title=title, caption=caption, svg=svg)
