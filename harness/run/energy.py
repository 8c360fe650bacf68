"""Energy that a run really used, beside the modelled joules of the ledger. Never compared between runs.

`log.energy`: codecarbon (extra `energy`) reads the counters of processor, memory and GPUs where there are any
and estimates them otherwise, for this whole machine, other programs and other runs included. cpu_time
multiplies the CPU seconds of the processes of engine, scheduler and all client actors by a core's share of
the processor's power (`log.package_w`). auto: codecarbon where it is installed, else cpu_time. Both measure
the machine that simulates, not the devices simulated.
"""

import functools
import importlib.util
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from harness.config import LogConfig, require
from harness.cost.carbon import carbon_g, grid_of

CPU_KEY: Final = "energy/cpu_s"
"""CPU seconds of a round, all processes together, as the engine read them."""
KEY: Final = "energy/measured_j"
JOULES_PER_KWH: Final = 3.6e6


class EnergyMeter(Protocol):
    """Measures rounds, one after another, from its beginning on."""

    def joules(self, timings: Mapping[str, int | float]) -> float | None:
        """Since the last call; `timings`: of the round that ends. None where it cannot tell."""

    def close(self) -> None:
        """Nothing more is measured."""


class CpuTime:
    """CPU seconds times a core's share of the processor's power."""

    def __init__(self, *, package_w: float, cores: int | None = None) -> None:
        """`cores`: of one machine, which share `package_w` W."""
        self.core_w = package_w / (cores or os.cpu_count() or 1)

    def joules(self, timings: Mapping[str, int | float]) -> float | None:
        seconds = timings.get(CPU_KEY)
        return None if seconds is None else seconds * self.core_w

    def close(self) -> None:
        pass


class CodeCarbon:
    """A codecarbon tracker, each round a task of its own."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self._begin()

    def joules(self, timings: Mapping[str, int | float]) -> float | None:
        measured = self.tracker.stop_task(self.task)
        self._begin()
        return None if measured is None else JOULES_PER_KWH * float(measured.energy_consumed)

    def close(self) -> None:
        self.tracker.stop_task(self.task)

    def _begin(self) -> None:
        self.task = uuid.uuid4().hex
        self.tracker.start_task(self.task)


@functools.cache
def offline_tracker() -> Any:
    """One for this process, since setting it up takes seconds; no network, no files."""
    from codecarbon import OfflineEmissionsTracker

    # The country decides its own figure of carbon alone, which is not used: harness/cost/carbon.py.
    return OfflineEmissionsTracker(
        country_iso_code="ITA", save_to_file=False, log_level="error", allow_multiple_runs=True
    )


def check_energy(cfg: LogConfig) -> None:
    """Raise ConfigError for a meter that is not installed, a power that is none, and an unknown grid."""
    require(
        cfg.energy != "codecarbon" or installed(),
        "log.energy=codecarbon: it is not installed; use `pip install 'edge-fl-harness[energy]'` or "
        "log.energy=cpu_time",
    )
    require(cfg.package_w > 0, f"log.package_w must be > 0, got {cfg.package_w}")
    grid_of(cfg.grid)


def installed() -> bool:
    """Whether codecarbon is there."""
    return importlib.util.find_spec("codecarbon") is not None


def word_of(cfg: LogConfig) -> str:
    """none, cpu_time or codecarbon."""
    return ("codecarbon" if installed() else "cpu_time") if cfg.energy == "auto" else cfg.energy


def energy_meter(cfg: LogConfig) -> EnergyMeter:
    """As configured. For none the engine reads no CPU seconds, and CpuTime has nothing to tell."""
    if word_of(cfg) == "codecarbon":
        return CodeCarbon(offline_tracker())
    return CpuTime(package_w=cfg.package_w)


def with_energy(timings: Mapping[str, int | float], meter: EnergyMeter) -> dict[str, int | float]:
    """A round's timings with what was measured of it."""
    joules = meter.joules(timings)
    return dict(timings) if joules is None else {**timings, KEY: joules}


def summarize_energy(
    cfg: LogConfig, *, modelled_j: float, timings: Sequence[Mapping[str, Any]]
) -> dict[str, float | str]:
    """Joules and grams of carbon, modelled and measured; measured ones only where every round has them."""
    grid = grid_of(cfg.grid)
    found: dict[str, float | str] = {"grid": cfg.grid, "kg_per_kwh": grid.kg_per_kwh, "source": grid.source}
    found |= {"modelled_j": modelled_j, "modelled_g": carbon_g(modelled_j, grid=cfg.grid)}
    if timings and all(KEY in line for line in timings):
        measured_j = sum(line[KEY] for line in timings)
        measured_g = carbon_g(measured_j, grid=cfg.grid)
        found |= {"measured_by": word_of(cfg), "measured_j": measured_j, "measured_g": measured_g}
    return found
