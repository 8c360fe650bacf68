"""Carbon of electricity: energy times the intensity of the grid that it comes from.

Malandrino, Chiasserini, WoWMoM 2022, take 0.243 kg/kWh; their Table I is at 0.337 to 0.3465 by its own rows.
Other values: IPCC AR5 WG III (2014), annex III, table A.III.2, medians over the life cycle of a source; of
countries, the year 2023 as codecarbon 3.3.2 ships it (global_energy_mix.json); of the world, IEA for 2018.
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

_COUNTRY: Final = "of 2023, codecarbon 3.3.2, global_energy_mix.json"
_COUNTRIES: Final = {
    "china": 0.582317,
    "france": 0.056039,
    "germany": 0.38095,
    "india": 0.713441,
    "italy": 0.330718,
    "japan": 0.485392,
    "norway": 0.03008,
    "poland": 0.661926,
    "spain": 0.17405,
    "sweden": 0.040695,
    "united_kingdom": 0.237589,
    "united_states": 0.369473,
}

GRIDS: Final[Mapping[str, Grid]] = MappingProxyType(
    {
        "fpl": Grid(0.243, "Malandrino, Chiasserini, WoWMoM 2022, section IV"),
        "world": Grid(0.475, "IEA, Global energy and CO2 status report 2019"),
        **{name: Grid(kg, _COUNTRY) for name, kg in _COUNTRIES.items()},
        "coal": Grid(0.820, _IPCC),
        "gas": Grid(0.490, _IPCC),
        "solar": Grid(0.048, f"{_IPCC}, utility scale"),
        "hydro": Grid(0.024, _IPCC),
        "nuclear": Grid(0.012, _IPCC),
        "wind": Grid(0.011, f"{_IPCC}, onshore"),
    }
)


def grid_of(name: str) -> Grid:
    """By its name. Raises ConfigError for an unknown one."""
    require(name in GRIDS, f"log.grid: unknown grid {name!r}{nearest(name, list(GRIDS))}")
    return GRIDS[name]


def carbon_g(joules: float, *, grid: str = "fpl") -> float:
    """Grams of CO2 equivalent of so much energy. Raises ConfigError for an unknown grid."""
    return joules / JOULES_PER_KWH * grid_of(grid).kg_per_kwh * 1000


def implied_intensity(grams: float, kwh: float) -> float:
    """kg/kWh that a printed pair of carbon and energy stands for."""
    return grams / 1000 / kwh
