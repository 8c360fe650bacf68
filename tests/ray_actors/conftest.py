"""One Ray for all tests of this folder, and a way to play a configuration on it or in this process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from local_run import make_job

from harness import loading
from harness.run.method import method_config
from harness.run.records import Commit
from harness.run.runtime import LocalRuntime, Runtime
from ray_actors.launch import RayRuntime

HERE = str(Path(__file__).parent)
TINY = [
    "task=synthetic",
    "task.options={num_train: 200, num_test: 40, num_classes: 4, image_size: 8}",
    "model=mlp",
    "partition=dirichlet",
    "partition.num_clients=5",
    "run.num_rounds=3",
]

Play = Callable[..., list[Commit]]


@pytest.fixture(scope="session")
def ray_runtime() -> Iterator[RayRuntime]:
    """Started once: an actor needs seconds to import torch."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
    runtime = RayRuntime()
    yield runtime
    runtime.close()


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """`play(words, runtime=...)` -> the commits of all rounds, engine and actors without any files."""
    monkeypatch.syspath_prepend(HERE)

    def run(words: list[str], *, runtime: Runtime | None = None) -> list[Commit]:
        cfg = loading.load([*TINY, *words], method_config=method_config)
        engine = (runtime or LocalRuntime()).start(make_job(cfg, tmp_path / "states"), restored=None)
        return [engine.run_round(round) for round in range(cfg.run.num_rounds)]

    return run


def assert_same(left: list[Commit], right: list[Commit]) -> None:
    """Records, ledgers and checkpoints are equal to the last bit; timings are not compared."""
    assert [commit.record for commit in left] == [commit.record for commit in right]
    for a, b in zip(left, right, strict=True):
        pd.testing.assert_frame_equal(a.ledger, b.ledger, check_exact=True, check_categorical=False)
        assert a.checkpoint == b.checkpoint
