"""Every cell of every file in sweeps/ loads and resolves, at each of its scales; no data is read."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch

from harness.cost.submodel import SubmodelProfile
from harness.data.task import Task
from harness.learning.profile import profile
from harness.report.claims import load_claims
from harness.run.driver import preflight
from harness.run.sweep import expand, read_sections

SWEEPS = Path(__file__).parents[1] / "sweeps"
FILES = [path for path in sorted(SWEEPS.rglob("*.yaml")) if path.name not in ("claims.yaml", "cluster.yaml")]
WITH_SCALES = [(path, scale) for path in FILES for scale in (None, *read_sections(path)["scales"])]


RESOLVED: set[str] = set()
"""Digests of cells that resolved in another file, or at another scale."""


read = cache(expand)


@pytest.fixture(autouse=True, scope="module")
def _equal_networks_are_counted_once() -> Iterator[None]:
    """Counting a deep network takes a second, and a hundred cells have it."""
    known: dict[str, SubmodelProfile] = {}

    def remembered(build: Callable[[], L.LightningModule], *, name: str, task: Task) -> SubmodelProfile:
        with torch.device("meta"):
            module = build()
        key = f"{name} {task.input_shape} {module}"
        if key not in known:
            known[key] = profile(build, name=name, task=task)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.run.method.profile", remembered)
        yield


@pytest.mark.parametrize(
    ("path", "scale"), WITH_SCALES, ids=[f"{path.relative_to(SWEEPS)}-{scale}" for path, scale in WITH_SCALES]
)
def test_cells_resolve(path: Path, scale: str | None) -> None:
    cells = read(path, scale=scale)
    for digest, cell in {cell.cfg.digest: cell for cell in cells}.items():
        if digest not in RESOLVED:
            preflight(cell.cfg)
            RESOLVED.add(digest)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SWEEPS)))
def test_smoke_needs_no_download(path: Path) -> None:
    cells = read(path, scale="smoke")
    assert {cell.cfg.task.name for cell in cells} <= {"digits", "synthetic"}
    assert max(cell.cfg.run.num_rounds for cell in cells) <= 3


def test_claims_load() -> None:
    papers = {claim.paper for claim in load_claims(folder=SWEEPS)}
    assert papers == {path.parent.name for path in SWEEPS.glob("*/claims.yaml")}


def test_the_demo_compares_the_baselines_on_unequal_devices() -> None:
    cells = expand(SWEEPS / "demo.yaml")
    methods = {cell.cfg.method.name for cell in cells}
    assert methods >= {"fedavg", "fedprox", "fedsgd", "centralized", "local_only", "fdnnc"}
    assert {len(cell.cfg.fleet.profiles) for cell in cells} == {4}
