"""Carbon of electricity: energy times the intensity of the grid that it comes from.

Malandrino, Chiasserini, WoWMoM 2022, take 0.243 kg/kWh; their Table I is at 0.339 to 0.353 by its own rows.
Other values: IPCC AR5 WG III (2014), annex III, table A.III.2, medians over the life cycle of a source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from harness.config import nearest, require

JOULES_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Grid:
    """Where electricity comes from."""

    kg_per_kwh: float
    """Kilograms of CO2 equivalent per kWh."""
    source: str


_IPCC: Final = "IPCC AR5 WG III, annex III, table A.III.2, median"

GRIDS: Final[Mapping[str, Grid]] = MappingProxyType(
    {
        "fpl": Grid(0.243, "Malandrino, Chiasserini, WoWMoM 2022, section IV"),
        "coal": Grid(0.820, _IPCC),
        "gas": Grid(0.490, _IPCC),
        "solar": Grid(0.048, f"{_IPCC}, utility scale"),
        "hydro": Grid(0.024, _IPCC),
        "nuclear": Grid(0.012, _IPCC),
        "wind": Grid(0.011, f"{_IPCC}, onshore"),
    }
)


def carbon_g(joules: float, *, grid: str = "fpl") -> float:
    """Grams of CO2 equivalent of so much energy. Raises ConfigError for an unknown grid."""
    require(grid in GRIDS, f"grid: unknown grid {grid!r}{nearest(grid, list(GRIDS))}")
    return joules / JOULES_PER_KWH * GRIDS[grid].kg_per_kwh * 1000


def implied_intensity(grams: float, kwh: float) -> float:
    """kg/kWh that a printed pair of carbon and energy stands for."""
    return grams / 1000 / kwh
