"""Every cell of every file in sweeps/ loads and resolves, at each of its scales; no data is read.

In one process (`--dist loadfile`): equal networks are counted once.
"""

import json
from functools import cache
from pathlib import Path

import pytest

from harness.config import Config, as_dict
from harness.learning.models import TrainingConfig
from harness.report.claims import load_claims
from harness.report.printed import read_printed
from harness.run import sweep
from harness.run.driver import preflight
from harness.run.sweep import expand

SWEEPS = Path(__file__).parents[1] / "sweeps"
OTHERS = ("claims.yaml", "cluster.yaml", "wandb_sweep.yaml")
FILES = [path for path in sorted(SWEEPS.rglob("*.yaml")) if path.name not in OTHERS]
read_sections = cache(sweep.read_sections)
WITH_SCALES = [
    (path, scale)
    for path in FILES
    for scale, changes in {None: {0: 0}, **read_sections(path)["scales"]}.items()
    # An empty scale is the file as it stands.
    if changes
]

RESOLVED: set[str] = set()
"""What resolved in another file, or at another scale."""
NUMBERS = ("lr", "lr_decay", "momentum", "weight_decay", "mu")
"""Of a method, that decide neither what is built nor who takes part."""


def what_is_built(cfg: Config) -> str:
    tree = as_dict(cfg)
    method = {key: value for key, value in tree["method"].items() if key not in NUMBERS}
    kept = {key: value for key, value in tree.items() if key not in ("run", "log", "runtime")}
    return json.dumps(kept | {"method": method}, sort_keys=True)


read = cache(expand)


@pytest.mark.parametrize(
    ("path", "scale"), WITH_SCALES, ids=[f"{path.relative_to(SWEEPS)}-{scale}" for path, scale in WITH_SCALES]
)
def test_cells_resolve(path: Path, scale: str | None) -> None:
    cells = read(path, scale=scale)
    for cell in cells:
        if isinstance(cell.cfg.method, TrainingConfig):
            cell.cfg.method.check()  # the numbers, too
    for built, cell in {what_is_built(cell.cfg): cell for cell in cells}.items():
        if built not in RESOLVED:
            preflight(cell.cfg)
            RESOLVED.add(built)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SWEEPS)))
def test_smoke_needs_no_download(path: Path) -> None:
    cells = read(path, scale="smoke")
    drawn = {"digits", "synthetic", "shapes_detection", "shapes_segmentation"}
    assert {cell.cfg.task.name for cell in cells} <= drawn
    assert max(cell.cfg.run.num_rounds for cell in cells) <= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SWEEPS)))
def test_printed_numbers_belong_to_cells(path: Path) -> None:
    full = read(path, scale="paper" if "paper" in read_sections(path)["scales"] else None)
    quantities = read_printed(path, full=full)
    assert len({quantity.name for quantity in quantities}) == len(quantities) > 0


def test_claims_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.measured.expand", read)
    papers = {claim.paper for claim in load_claims(folder=SWEEPS)}
    assert papers == {path.parent.name for path in SWEEPS.glob("*/claims.yaml")}


def test_the_demo_compares_the_baselines_on_unequal_devices() -> None:
    cells = expand(SWEEPS / "demo.yaml")
    methods = {cell.cfg.method.name for cell in cells}
    assert methods >= {"fedavg", "fedprox", "fedsgd", "centralized", "local_only", "fdnnc"}
    assert {len(cell.cfg.fleet.profiles) for cell in cells} == {4}
