"""What a sweep will cost, before it runs: FLOPs, bytes, joules, memory and wall hours of each cell.

Runs of the same configuration (another seed, say) tell it from their files, scaled by rounds. Otherwise the
first round's plan is priced on shapes, as if every client held the mean share and every round was like the
first, and the wall time follows from FLOPs per second: those of earlier runs of the sweep, else of a training
step of the cell's own network, timed here. Evaluation and the start of actors are in it where files tell.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from harness.config import Config
from harness.cost.devices import Work, price, price_idle
from harness.cost.submodel import SubmodelProfile
from harness.data.tasks import load_task
from harness.learning.models import TrainingConfig
from harness.learning.training import batch_sizes
from harness.learning.workplace import Workplace
from harness.run.describe import exchange_rows
from harness.run.doctor import usable_cores
from harness.run.files import read_lines
from harness.run.method import Method, load_method
from harness.run.sinks.console import with_prefix
from harness.run.store import run_folder
from harness.run.sweep import Cell
from harness.run.traffic import compressor_for, submodels_of
from harness.scheduling.fleet import build_fleet
from harness.scheduling.scheduler import Scheduler
from harness.types import ConfigError, SubmodelId

COLUMNS: Final = (
    "cell",
    "settings",
    "client FLOPs",
    "server FLOPs",
    "bytes",
    "client J",
    "memory",
    "hours",
    "from",
)
STEPS: Final = 5
"""Timed after one that is not, at most."""
ENOUGH_S: Final = 1.0
"""Seconds of timing after which no further step is taken."""
MOST: Final = 32
"""Examples in a timed step, at most."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a whole run, all clients together."""

    client_flops: float
    server_flops: float
    num_bytes: float
    """Both ways."""
    client_j: float
    memory_bytes: int
    """Of one local training step, the largest submodel that is assigned."""
    wall_s: float | None
    """None where the network's step could not be timed."""
    source: str
    """`plan`: predicted; `files`: measured on runs of the same configuration."""


def forecast(cells: Sequence[Cell]) -> list[Forecast]:
    """One for each cell. Raises ConfigError for a cell that no run can satisfy."""
    measured = {cell.cfg.digest: found for cell in cells if (found := _measured(cell.cfg)) is not None}
    rates = _rates(cells, measured)
    planned: dict[str, Forecast] = {}
    timed: dict[str, float | None] = {}
    told = []
    for cell in cells:
        cfg = cell.cfg
        if cfg.digest not in planned:
            planned[cfg.digest] = _planned(cfg, rates=rates, timed=timed)
        one = planned[cfg.digest]
        if cfg.digest in measured:
            one = replace(measured[cfg.digest], memory_bytes=one.memory_bytes)
        told.append(one)
    return told


def rows_of(
    cells: Sequence[Cell], found: Sequence[Forecast], *, num_trials: int | None = None
) -> list[tuple[str, ...]]:
    """A row of COLUMNS for each cell, and their sum; of `num_trials` times the cells where it is a search."""
    rows = [(cell.cfg.run_id, cell.label, *_figures(one)) for cell, one in zip(cells, found, strict=True)]
    times = num_trials or 1
    walls = [one.wall_s for one in found]
    total = Forecast(
        times * sum(one.client_flops for one in found),
        times * sum(one.server_flops for one in found),
        times * sum(one.num_bytes for one in found),
        times * sum(one.client_j for one in found),
        max(one.memory_bytes for one in found),
        None if None in walls else times * sum(wall for wall in walls if wall is not None),
        "sum",
    )
    told = f"{num_trials} trials at these values, none stopped early" if num_trials else "one after another"
    return [*rows, ("all", told, *_figures(total))]


def _figures(one: Forecast) -> tuple[str, ...]:
    hours = "?" if one.wall_s is None else f"{one.wall_s / 3600:.2g}"
    counts = (
        with_prefix(one.client_flops, "FLOP"),
        with_prefix(one.server_flops, "FLOP"),
        with_prefix(one.num_bytes, "B"),
        with_prefix(one.client_j, "J"),
        with_prefix(one.memory_bytes, "B"),
    )
    return (*counts, hours, one.source)


def _measured(cfg: Config) -> Forecast | None:
    """From the folders of this configuration with any seed: their median, scaled to all rounds."""
    found = []
    for folder in run_folder(cfg).parent.glob(f"{cfg.run_id.rpartition('-')[0]}-*"):
        try:
            records = read_lines(folder / "rounds.jsonl")
            timings = read_lines(folder / "timings.jsonl")
        except ConfigError:
            continue
        if records and len(timings) >= len(records):
            last, scale = records[-1], cfg.run.num_rounds / len(records)
            sent = last["cost/tx_bytes_total"] + last["cost/rx_bytes_total"]
            wall_s = scale * sum(line["time/wall_s"] for line in timings[: len(records)])
            totals = [last[f"cost/{name}_total"] for name in ("client_flops", "server_flops")]
            found.append([scale * v for v in (*totals, sent, last["cost/client_j_total"])] + [wall_s])
    if not found:
        return None
    flops, server, sent, joules, wall_s = (median(column) for column in zip(*found, strict=True))
    return Forecast(flops, server, sent, joules, 0, wall_s, "files")


def _rates(cells: Sequence[Cell], measured: Mapping[str, Forecast]) -> dict[str, float]:
    """FLOPs per second of the sweep's runs so far, by method and network."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        one = measured.get(cell.cfg.digest)
        if one is not None and one.wall_s:
            found.setdefault(_kind(cell.cfg), []).append((one.client_flops + one.server_flops) / one.wall_s)
    return {kind: median(rates) for kind, rates in found.items()}


def _kind(cfg: Config) -> str:
    return f"{cfg.method.name} {cfg.task.name} {cfg.task.model}"


def _planned(cfg: Config, *, rates: Mapping[str, float], timed: dict[str, float | None]) -> Forecast:
    """The first round, priced, times the rounds."""
    task = load_task(cfg.task)
    place = Workplace(cfg, task=task, splits=None, threads=cfg.runtime.client_threads)
    method = load_method(cfg.method.name)(cfg.method, place)
    submodels = submodels_of(method, cfg.compression)
    full = min(task.num_train, cfg.task.limit_train or task.num_train) * (1 - cfg.task.val_fraction)
    held = max(1, round(full / (1 if cfg.partition.name == "views" else cfg.partition.num_clients)))
    sizes = np.full(cfg.partition.num_clients, held, dtype=np.int64)
    plan = Scheduler(cfg, sizes).plan(0, submodels)
    rows = exchange_rows(method.exchanges(held), compressor_for(method, cfg.compression))
    seen = _seen(cfg, held) if rows else 0
    names = [plan.submodels[index] for index in plan.submodel_index]
    work = Work(
        flops=np.array([float(seen * submodels[name].flops_train) for name in names]),
        tx_bytes=np.array([_sum(rows, name, "tx_bytes") for name in names]),
        rx_bytes=np.array([_sum(rows, name, "rx_bytes") for name in names]),
    )
    devices = build_fleet(cfg.fleet, num_clients=cfg.partition.num_clients, seed=cfg.run.seed).take(
        plan.clients
    )
    cost = price(work, devices, plan.points)
    busy = np.asarray(cost.busy_s)
    joules = cost.compute_j + cost.link_j + price_idle(busy.max(initial=0.0) - busy, devices)
    server = _server_flops(method, submodels, examples=seen * len(plan) if rows else _seen(cfg, round(full)))
    client = float(np.sum(work.flops))
    rounds = cfg.run.num_rounds
    return Forecast(
        client_flops=rounds * client,
        server_flops=rounds * server,
        num_bytes=rounds * float(np.sum(work.tx_bytes) + np.sum(work.rx_bytes)),
        client_j=rounds * float(np.sum(joules)) if rows else 0.0,
        memory_bytes=max((submodels[name].train_bytes for name in set(names)), default=0),
        wall_s=_wall_s(cfg, method, client=rounds * client, server=rounds * server, rates=rates, timed=timed),
        source="plan",
    )


def _seen(cfg: Config, held: int) -> int:
    """Examples that pass through a network in one round at a client with so many."""
    return sum(batch_sizes(held, cfg=cfg.method)) if isinstance(cfg.method, TrainingConfig) else held


def _sum(rows: Sequence[Mapping[str, Any]], submodel: SubmodelId, key: str) -> float:
    """Bytes of one client with this submodel, per round."""
    own = [row for row in rows if row["submodel"] == submodel]
    # Some methods send one of several parts in turn, each named after the submodel.
    parts = [row for row in rows if str(row["submodel"]).startswith(str(submodel))] or list(rows)
    return float(sum(row[key] for row in own) or sum(row[key] for row in parts) / max(1, len(parts)))


def _server_flops(
    method: Method[Any, Any], submodels: Mapping[SubmodelId, SubmodelProfile], *, examples: int
) -> float:
    """Of one round. The first network no client is assigned is the server's; without exchanges, all is."""
    models = method.models()
    others = [name for name in models if SubmodelId(name) not in submodels]
    exchanges = bool(method.exchanges(1))
    if exchanges and not others:
        return 0.0
    name = others[0] if exchanges else next(iter(models))
    epochs = getattr(method.cfg, "server_epochs", 1)
    return float(examples * epochs * method.profile(name, models[name]).flops_train)


def _wall_s(
    cfg: Config,
    method: Method[Any, Any],
    *,
    client: float,
    server: float,
    rates: Mapping[str, float],
    timed: dict[str, float | None],
) -> float | None:
    if (rate := rates.get(_kind(cfg))) is not None:
        return (client + server) / rate
    batch = getattr(cfg.method, "batch_size", 1)
    key = f"{_kind(cfg)} {cfg.task.image_size} {batch} {cfg.runtime.client_threads}"
    if key not in timed:
        timed[key] = _step_rate(method, cfg)
    measured = timed[key]
    cores = 1 if cfg.runtime.transport == "local" else usable_cores() // cfg.runtime.client_threads
    cohort = cfg.scheduler.cohort_size or cfg.partition.num_clients
    return measured and (client / max(1, min(cores, cohort)) + server) / measured


def _step_rate(method: Method[Any, Any], cfg: Config) -> float | None:
    """FLOPs per second of a training step of the method's first network, random numbers in it."""
    task, place = method.place.task, method.place
    name, build = next(iter(method.models().items()))
    batch = max(2, min(getattr(cfg.method, "batch_size", 0) or MOST, MOST))
    with torch.random.fork_rng():
        module = place.settle(build())
        example = module.example_input_array
        shape = task.input_shape if not isinstance(example, torch.Tensor) else tuple(example.shape[1:])
        inputs = place.fabric.to_device(torch.rand(batch, *shape))
    targets = torch.zeros(batch, *task.target_shape, dtype=task.target_dtype, device=inputs.device)
    ids = torch.arange(batch, device=inputs.device)
    flops = method.profile(name, build).flops_train * batch
    marks: list[float] = []
    while len(marks) <= STEPS and (len(marks) < 2 or marks[-1] - marks[0] < ENOUGH_S):
        loss = module.training_step((inputs, targets, ids), len(marks))
        assert isinstance(loss, torch.Tensor), "a training_step must return the loss"
        loss.backward()
        if inputs.is_cuda:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    return flops * (len(marks) - 1) / (marks[-1] - marks[0]) or None
