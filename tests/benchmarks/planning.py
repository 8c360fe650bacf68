"""How long a round's plan takes: MFL's policies from a thousand clients to a million, on one core.

    make bench-planning                       # or: python tests/benchmarks/planning.py --most 100000

The heuristic is n log n (sorting) plus n log t (the root of a power curve); the fitted exponent is that of
seconds = c n^e over the sizes measured, each the best of the repeats.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.config import FleetConfig, LinkConfig, SchedulerConfig
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.fleet import build_fleet
from harness.scheduling.policies import POLICIES
from harness.scheduling.states import DeviceStates
from harness.types import SubmodelId

EXAMPLES = 937
WATTS_PER_CLIENT = {"low": 10 / 64, "high": 100 / 64}
MIXES: dict[str, dict[str, float]] = {
    "all L": {"L": 1.0},
    "16 L, 16 M, 16 S, 16 T": {"L": 0.25, "M": 0.25, "S": 0.25, "T": 0.25},
    "32 L, 16 M, 8 S, 8 T": {"L": 0.5, "M": 0.25, "S": 0.125, "T": 0.125},
}


def submodels() -> dict[SubmodelId, SubmodelProfile]:
    """Those of MFL's CNN on MNIST; the figures are checked in tests/lightning_modules/test_widths.py."""
    rows = {
        "L": (16_938, 33_812_352, (144, 288, 288, 90), 1),
        "M": (10_010, 17_555_328, (144, 144, 288, 90), 2),
        "S": (6_250, 14_422_464, (144, 144, 144, 90), 4),
        "T": (5_018, 8_777_664, (72, 144, 144, 90), 8),
    }
    return {
        SubmodelId(name): SubmodelProfile(
            name=SubmodelId(name),
            params=params,
            macs_forward=0,
            flops_train=flops,
            num_bytes=4 * params,
            activation_bytes=0,
            capacity=capacity,
            num_instances=instances,
        )
        for name, (params, flops, capacity, instances) in rows.items()
    }


def seconds_to_plan(cfg: SchedulerConfig, states: DeviceStates, *, repeats: int) -> list[float]:
    """Of some plans of one round."""
    found = []
    for repeat in range(repeats):
        started = time.perf_counter()
        plan = POLICIES[cfg.policy](0, states, submodels(), cfg, np.random.default_rng(repeat))
        found.append(time.perf_counter() - started)
        assert len(plan) == len(states.fleet)
    return found


def configurations(clients: int) -> dict[str, SchedulerConfig]:
    """What is measured, by the words of its row."""
    found = {}
    for budget, watts in WATTS_PER_CLIENT.items():
        for told, mix in MIXES.items():
            found[f"{told}, {budget}"] = SchedulerConfig(
                policy="fixed_mix", mix=mix, power_budget_w=watts * clients
            )
        found[f"searched, {budget}"] = SchedulerConfig(policy="energy_budget", power_budget_w=watts * clients)
    return found


def measure(sizes: list[int], *, repeats: int) -> dict[str, list[list[float]]]:
    """Row -> seconds [size][repeat]."""
    fleet = FleetConfig({"mfl_node": 1.0}, clock_hz=[1.5e9, 2.5e9], link=LinkConfig(model="shannon"))
    found: dict[str, list[list[float]]] = {}
    for clients in sizes:
        held = np.full(clients, EXAMPLES)
        states = DeviceStates(
            build_fleet(fleet, num_clients=clients, seed=0), np.full(clients, np.inf), held, held
        )
        for told, cfg in configurations(clients).items():
            found.setdefault(told, []).append(seconds_to_plan(cfg, states, repeats=repeats))
    return found


def exponent(sizes: list[int], seconds: Sequence[float]) -> float:
    """e of seconds = c n^e, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else float("nan")


def told(sizes: list[int], found: Mapping[str, list[list[float]]], *, repeats: int) -> dict[str, Any]:
    """As `harness claims` reads it: a row for each given mix, and each budget that one is searched for."""
    tree: dict[str, Any] = {"repeats": repeats, "clients": max(sizes), "given": [], "searched": []}
    for name, seconds in found.items():
        best = [min(at_size) for at_size in seconds]
        row = {"name": name, "exponent": exponent(sizes, best), "seconds_largest": best[-1]}
        tree["searched" if name.startswith("searched") else "given"].append(row)
    return tree


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--most", type=int, default=1_000_000, help="largest fleet")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--out", type=Path, help="JSON for `harness claims`, e.g. results/bench/planning.json")
    chosen = words.parse_args()
    if chosen.out and chosen.most != words.get_default("most"):
        words.error("--out is for the sizes of the claim, up to a million clients")
    sizes = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= chosen.most]
    found = measure(sizes, repeats=chosen.repeats)
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    table = Table(title=f"Seconds per plan, numpy {np.__version__}, {threads} threads, {platform.machine()}")
    for head in ("mix, budget", *(f"{n:,}" for n in sizes), "exponent"):
        table.add_column(head, justify="left" if head.startswith("mix") else "right")
    for name, seconds in found.items():
        best = [min(at_size) for at_size in seconds]
        table.add_row(name, *(f"{s:.3g}" for s in best), f"{exponent(sizes, best):.2f}")
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(told(sizes, found, repeats=chosen.repeats), indent=1))
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    main()
