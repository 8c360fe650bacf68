"""A run from configuration to summary: the only place that reads data and writes files."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.config import Config, require
from harness.cost.submodel import SubmodelProfile
from harness.data.partition import Partition, partition
from harness.data.partition_objects import objects_held, objects_of
from harness.data.task import Splits, Task
from harness.data.tasks import load_task
from harness.exchange.worker import Job
from harness.learning.workplace import Workplace
from harness.run.energy import check_energy, energy_meter, summarize_energy, with_energy
from harness.run.method import load_method
from harness.run.records import COSTS, Summary
from harness.run.runtime import EngineLost, Running, Runtime
from harness.run.sinks import Sink
from harness.run.store import RunStore, finished_summary
from harness.run.traffic import submodels_of
from harness.scheduling.fleet import build_fleet, server_profile
from harness.scheduling.policies import check_policy, load_policy
from harness.scheduling.scheduler import Scheduler
from harness.types import SubmodelId

PICTURED = 1000
"""Clients whose label counts are kept in partition.json."""


def execute(cfg: Config, *, runtime: Runtime, sinks: Sequence[Sink] = ()) -> Summary:
    """Run `cfg` to its end, or return the summary of a finished run that lies in results_dir.

    Raises ConfigError or DataError before anything is written.
    """
    task = preflight(cfg)
    if (summary := finished_summary(cfg)) is not None:
        return summary
    started = time.perf_counter()
    splits = task.load()
    shards = partition_for(cfg, task=task, splits=splits)
    with RunStore.open(cfg, partition=picture_of(shards, task=task, splits=splits)) as store:
        job = Job(
            cfg=cfg,
            task=task,
            splits=splits,
            partition=shards,
            client_class=load_method(cfg.method.name).Client,
            state_dir=state_folder(cfg, store.folder),
        )
        try:
            for sink in sinks:
                sink.start(cfg, run_id=cfg.run_id, first_round=store.next_round)
            play(job, runtime=runtime, store=store, sinks=sinks)
            summary = summarize(
                cfg,
                metric=task.metric,
                records=store.records(),
                timings=store.timings(),
                started=started,
            )
            store.finish(summary)
        finally:
            for sink in sinks:
                sink.finish(summary)
    return summary


def picture_of(shards: Partition, *, task: Task, splits: Splits) -> dict[str, Any]:
    """Who holds what, for the report: of the first PICTURED clients where there are more."""
    targets = splits.train.targets
    counts = examples_by_class(shards, task=task, targets=targets)
    found = {
        "sizes": shards.sizes[:PICTURED].tolist(),
        "remainder": len(shards.remainder),
        "label_counts": counts[:PICTURED].tolist(),
    }
    if task.kind != "classification":
        held = objects_held(objects_of(task, targets), rows=shards.rows, sizes=shards.sizes)
        found["object_counts"] = held[:PICTURED].tolist()
    return found


def examples_by_class(shards: Partition, *, task: Task, targets: NDArray[Any]) -> NDArray[np.int64]:
    """[K, C] examples of each client that show a class: each has one label, or things of several classes."""
    if task.kind == "classification":
        return shards.label_counts(targets, num_classes=task.num_classes)
    counts = np.zeros((len(shards), task.num_classes), np.int64)
    client = np.repeat(np.arange(len(shards)), shards.sizes)
    np.add.at(counts, client, task.class_counts(targets)[shards.rows] > 0)
    return counts


def state_folder(cfg: Config, folder: Path) -> Path:
    """Where stateful clients' states lie; every actor must see it."""
    return (
        Path(cfg.runtime.state_dir).absolute() / cfg.run_id
        if cfg.runtime.state_dir
        else folder.absolute() / "state"
    )


def preflight(cfg: Config) -> Task:
    """Everything that can be wrong with a configuration, found without data. Raises ConfigError."""
    task = load_task(cfg.task)
    require(
        task.kind == "classification" or cfg.partition.name != "views",
        "partition.name=views changes images but not where things lie in them, which task "
        f"{cfg.task.name} is about; use another rule, such as iid",
    )
    check_energy(cfg.log)
    load_policy(cfg.scheduler.policy)
    build_fleet(cfg.fleet, num_clients=min(cfg.partition.num_clients, 1), seed=0)
    server_profile(cfg.fleet)
    wants_gpu = cfg.runtime.accelerator == "gpu" or cfg.runtime.gpus_per_actor > 0
    require(
        not wants_gpu or cfg.runtime.address is not None or torch.cuda.is_available(),
        "runtime.accelerator=gpu (or gpus_per_actor > 0) needs a GPU, and torch sees none here; "
        "use runtime.accelerator=cpu or runtime.address of a cluster that has one",
    )
    if not wants_gpu or torch.cuda.is_available():
        place = Workplace(cfg, task=task, splits=None, threads=cfg.runtime.server_threads)
        method = load_method(cfg.method.name)(cfg.method, place)
        submodels = submodels_of(method, cfg.compression)
        check_roles(cfg, submodels=submodels, required=method.required())
        check_policy(cfg.scheduler, submodels, total=cfg.partition.num_clients)
    return task


def check_roles(
    cfg: Config, *, submodels: Mapping[SubmodelId, SubmodelProfile], required: frozenset[SubmodelId]
) -> None:
    """Raise ConfigError where nobody plays a submodel that the method cannot do without."""
    if not required:
        return
    shares = Scheduler(cfg).plan(0, submodels).shares()
    for name in sorted(required):
        require(
            shares.get(name, 0.0) > 0,
            f"scheduler.policy={cfg.scheduler.policy}: method {cfg.method.name} as configured needs clients "
            f"with submodel {name}, got none; use policy by_share with a share of it in scheduler.mix",
        )


def partition_for(cfg: Config, *, task: Task, splits: Splits) -> Partition:
    """The partition of a run's training examples. Raises ConfigError where it cannot be made."""
    train = splits.train
    return partition(
        cfg.partition,
        targets=task.labels(train.targets),
        writers=train.writers,
        num_classes=task.num_classes,
        seed=cfg.run.seed,
        objects=objects_of(task, train.targets) if cfg.partition.name == "object_counts" else None,
    )


def play(job: Job, *, runtime: Runtime, store: RunStore, sinks: Sequence[Sink]) -> None:
    """Round after round until the last, or the target; from the last checkpoint where the engine died."""
    engine = runtime.start(job, restored=store.restored)
    retries = 0
    round = store.next_round
    with closing(energy_meter(job.cfg.log)) as meter:
        while round < job.cfg.run.num_rounds:
            try:
                commit = engine.run_round(round)
            except EngineLost:
                retries += 1
                if retries > job.cfg.runtime.max_retries:
                    raise
                engine, round = restart(job, runtime=runtime, store=store)
                continue
            commit = replace(commit, timings=with_energy(commit.timings, meter))
            store.commit(commit)
            for sink in sinks:
                sink.write(commit.record, commit.timings)
            round += 1
            if commit.done:
                break


def restart(job: Job, *, runtime: Runtime, store: RunStore) -> tuple[Running, int]:
    """A new engine at the last checkpoint; files written since are truncated."""
    store.rewind()
    return runtime.start(job, restored=store.restored), store.next_round


def summarize(
    cfg: Config,
    *,
    metric: str,
    records: Sequence[Mapping[str, Any]],
    timings: Sequence[Mapping[str, Any]],
    started: float,
) -> dict[str, Any]:
    """What `--json` prints: last metrics, totals, the test result at the round of best val, wall times.

    `energy` is that of all parties, modelled and measured, and the carbon it stands for at `log.grid`.
    """
    last = records[-1]
    measured = [r for r in records if f"val/{metric}" in r]
    best = max(measured, key=lambda r: r[f"val/{metric}"], default=None)
    keys = ("round", f"val/{metric}", f"eval/{metric}")
    wall = [t["time/wall_s"] for t in timings]
    final = measured[-1] if measured else last
    totals = {name: last[f"cost/{name}_total"] for name in COSTS} | {"sim_s": last["time/sim_s_total"]}
    energy = summarize_energy(cfg.log, modelled_j=totals["client_j"] + totals["server_j"], timings=timings)
    totals["carbon_g"] = energy["modelled_g"]
    return {
        "run_id": cfg.run_id,
        "method": cfg.method.name,
        "task": cfg.task.name,
        "seed": cfg.run.seed,
        "rounds": len(records),
        "metrics": {k: v for k, v in final.items() if k.split("/")[0] in ("eval", "val", "train")},
        "totals": totals,
        "energy": energy,
        "best": {key: best[key] for key in keys} if best else {},
        "timings": {"wall_s": time.perf_counter() - started, "median_round_s": median(wall) if wall else 0.0},
    }
