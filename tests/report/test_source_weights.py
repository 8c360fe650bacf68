"""Weights of sources as figures: read from records, named by views, the degraded one told apart."""

from pathlib import Path

import pytest
from local_run import make_config

from harness.report.energy import energy_table
from harness.report.frames import load
from harness.report.tables import label_variants
from harness.report.weights import spread, weighings, weight_pictures, write_pngs
from harness.run.driver import execute
from harness.run.runtime import LocalRuntime
from harness.types import ConfigError

WORDS = (
    *("method=fpl", "method.junction=3", "model=mlp", "partition=views", "partition.num_clients=3"),
    *(
        "task.limit_train=40",
        "run.num_rounds=2",
        "log.console=false",
        "log.energy=cpu_time",
        "log.grid=italy",
    ),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with a noisy source, one run with the usual views."""
    folder = tmp_path_factory.mktemp("study")
    noisy = "partition.views=[blur, noise, hflip]"
    for words in ((noisy, "run.seed=0"), (noisy, "run.seed=1"), ()):
        execute(make_config([*WORDS, f"run.results_dir={folder}", *words]), runtime=LocalRuntime())
    return folder


def test_norms_are_those_of_the_records(study: Path) -> None:
    results = load(study, ledger=False)
    runs = results.runs.assign(variant=label_variants(results.runs))
    noisy, plain = weighings(results, runs)
    assert noisy.views == {"0": "blur", "1": "noise", "2": "hflip"}
    assert noisy.degraded == ["1"]
    assert plain.views == {"0": "blur", "1": "erase", "2": "hflip"}
    assert plain.degraded == []
    assert noisy.rounds.tolist() == [1, 2]
    assert noisy.norms["1"].shape == (2, 2)
    rounds = results.rounds.set_index(["seed", "round"])
    seeds = rounds[rounds["run_id"].isin(runs.loc[runs["variant"] == noisy.variant, "run_id"])]
    assert noisy.norms["1"][1, 0] == seeds.loc[(1, 0), "fpl/weight/1"]


def test_pictures_for_the_page_and_for_slides(study: Path, tmp_path: Path) -> None:
    results = load(study, ledger=False)
    runs = results.runs.assign(variant=label_variants(results.runs))
    noisy, plain = weight_pictures(results, runs, key="k")
    assert "Of poor quality, dashed: noise has" in noisy.caption
    assert "Mean over 2 seeds" in noisy.caption
    assert "poor" not in plain.caption
    assert all(f">{name} ({i})<" in noisy.svg for i, name in enumerate(("blur", "noise", "hflip")))
    pngs = write_pngs(results, out=tmp_path)
    assert len(set(pngs)) == 2
    assert "-noise-" in pngs[0].name
    assert all(png.read_bytes().startswith(b"\x89PNG") for png in pngs)


def test_energy_and_carbon_at_the_runs_own_grid_or_another(study: Path) -> None:
    results = load(study, ledger=False)
    runs = results.runs.assign(variant=label_variants(results.runs))
    page = energy_table(runs)
    assert "Carbon at 0.330718 kg/kWh (italy: " in page
    assert "by cpu_time." in page
    assert page.count("<tr>") == 3
    assert "Carbon at 0.82 kg/kWh (coal: IPCC" in energy_table(runs, grid="coal")
    old = runs.drop(columns=[c for c in runs if c.startswith("energy/") or c == "config.log.grid"])
    assert "Carbon at 0.243 kg/kWh (fpl: " in energy_table(old)
    assert energy_table(old).count("—") == 4
    with pytest.raises(ConfigError, match="unknown grid 'coil'"):
        energy_table(runs, grid="coil")


def test_names_that_are_apart_stay_and_others_make_room() -> None:
    assert spread([0.0, 5.0, 9.0], gap=1.0) == [0.0, 5.0, 9.0]
    assert spread([1.0, 1.0, 1.0, 8.0], gap=1.0) == [0.0, 1.0, 2.0, 8.0]
    assert spread([2.0, 2.5], gap=1.0) == [1.75, 2.75]
