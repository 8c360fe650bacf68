"""Fleets read from a table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.config import FleetConfig, LinkConfig
from harness.cost.devices import PROFILES
from harness.scheduling.fleet import Fleet, build_fleet
from harness.types import ClientId, ConfigError


def write(folder: Path, text: str) -> str:
    file = folder / "fleet.csv"
    file.write_text(text)
    return str(file)


def fleet(table: str, *, num_clients: int = 3, seed: int = 0, **keys: object) -> Fleet:
    return build_fleet(FleetConfig(table=table, **keys), num_clients=num_clients, seed=seed)  # type: ignore[arg-type]


def test_a_row_is_a_client_and_an_empty_cell_its_profile(tmp_path: Path) -> None:
    found = fleet(
        write(
            tmp_path,
            "profile,max_frequency_hz,kappa,memory_bytes,battery_j,available\n"
            "phone,1e9,1e-27,2e9,500,0-10;20-30\nlaptop,,,,,\n,3e9,,,,5-inf\n",
        )
    )
    phone, laptop = PROFILES["phone"].device, PROFILES["laptop"].device
    assert [found.profile(ClientId(c)) for c in range(3)] == ["phone", "laptop", "raspberry_pi_4"]
    first = found[ClientId(0)]
    assert (first.max_frequency_hz, first.kappa, first.memory_bytes, first.battery_j) == (
        1e9,
        1e-27,
        2e9,
        500,
    )
    assert first.tx_bps == phone.tx_bps
    assert found[ClientId(1)] == laptop
    assert found[ClientId(2)].max_frequency_hz == 3e9
    assert found.windows is not None
    assert [np.flatnonzero(found.windows.available(t)).tolist() for t in (0, 5, 15)] == [
        [0, 1],
        [0, 1, 2],
        [1, 2],
    ]


def test_parquet_distances_and_bands_make_rates(tmp_path: Path) -> None:
    file = tmp_path / "fleet.parquet"
    pd.DataFrame({"distance_m": [50.0, 200.0, np.nan], "bandwidth_hz": [1e6, 1e6, 2e6]}).to_parquet(file)
    found = fleet(str(file), profiles={"mfl_node": 1.0}, link=LinkConfig(model="shannon"))
    assert found.channel is not None
    assert found.channel.bandwidth_hz.tolist() == [1e6, 1e6, 2e6]
    assert found[ClientId(0)].tx_bps > found[ClientId(1)].tx_bps
    other = fleet(str(file), profiles={"mfl_node": 1.0}, link=LinkConfig(model="shannon"), seed=1)
    assert found.channel.gain[:2].tolist() == other.channel.gain[:2].tolist()  # type: ignore[union-attr]
    assert found.channel.gain[2] != other.channel.gain[2]  # type: ignore[union-attr]


def test_longer_and_shorter_tables_are_dealt_by_the_seed(tmp_path: Path) -> None:
    table = write(tmp_path, "battery_j\n" + "".join(f"{j}\n" for j in range(1, 21)))
    one, same, other = (fleet(table, num_clients=10, seed=s).devices.battery_j for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert len(set(np.asarray(one))) == 10
    assert not np.array_equal(one, other)
    assert set(np.asarray(fleet(table, num_clients=200).devices.battery_j)) <= set(range(1, 21))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu\n1\n", r"fleet\.csv: unknown column 'cpu'"),
        ("memory_byte\n1\n", r"unknown column 'memory_byte'; did you mean memory_bytes\?"),
        ("kappa,battery_j\n1e-28,5\n1e-28,-5\n", r"row 1: battery_j must be >= 0, got '-5'"),
        ("max_frequency_hz\n0\n", r"row 0: max_frequency_hz must be > 0, got '0'"),
        ("max_frequency_hz\nfast\n", r"row 0: max_frequency_hz must be > 0, got 'fast'"),
        ("available\n9-3\n", r"row 0: available must be spans such as 0-3600;7200-9000, got '9-3'"),
        ("available\nalways\n", r"row 0: available must be spans"),
        ("profile\nfone\n", r"fleet\.table: profile: unknown device profile 'fone'; did you mean phone\?"),
        ("kappa\n", r"holds no rows"),
    ],
)
def test_tables_with_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        fleet(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_column_without_effect(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fleet\.table=.*none\.csv: cannot be read"):
        fleet(str(tmp_path / "none.csv"))
    with pytest.warns(UserWarning, match=r"no effect with fleet\.link\.model=profile"):
        fleet(write(tmp_path, "distance_m\n5\n"))
