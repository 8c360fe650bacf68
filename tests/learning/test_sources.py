"""Batches that all sources agree on, the cut, and several views of one image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from local_run import make_config, make_job
from torch import Tensor

from harness.data.task import Shard
from harness.data.tasks import load_task
from harness.exchange.worker import Worker
from harness.learning.models import TrainingConfig
from harness.learning.sources import Branches, batch_rows, fork, seen_by
from harness.learning.training import batch_sizes
from harness.learning.workplace import Workplace
from harness.types import ConfigError


def place_of(folder: Path, *words: str) -> Workplace:
    return Worker(make_job(make_config(words), folder)).place


def rows(seed: int = 0, **settings: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return batch_rows(10, cfg=TrainingConfig(batch_size=4, **settings), generator=generator)


def test_every_row_once_an_epoch() -> None:
    found = rows(local_epochs=2)
    assert (
        [len(batch) for batch in found]
        == [4, 4, 2, 4, 4, 2]
        == batch_sizes(10, cfg=TrainingConfig(batch_size=4, local_epochs=2))
    )
    assert sorted(torch.cat(found[:3]).tolist()) == sorted(torch.cat(found[3:]).tolist()) == list(range(10))
    assert not torch.equal(found[0], found[3])


def test_so_many_steps_and_the_same_for_all() -> None:
    assert [len(batch) for batch in rows(local_steps=4)] == [4, 4, 2, 4]
    assert all(torch.equal(a, b) for a, b in zip(rows(), rows(), strict=True))
    assert not torch.equal(rows()[0], rows(seed=1)[0])


def test_views_side_by_side_are_what_each_source_sees(tmp_path: Path) -> None:
    place = place_of(tmp_path, "partition=views", "partition.num_clients=3")
    both = seen_by(place, "val", [2, 0]).take(np.arange(4))
    assert both.inputs.shape[:2] == (4, 2)
    for column, view in ((0, "hflip"), (1, "blur")):
        plain = place.split("val")
        alone = Shard(plain.task, plain.examples, plain.indices, view).take(np.arange(4))
        assert torch.equal(both.inputs[:, column], alone.inputs)
        assert torch.equal(both.targets, alone.targets)


def test_the_shape_at_a_cut(tmp_path: Path) -> None:
    place = place_of(tmp_path, "model=cnn")
    cut = fork(place.task, "3")
    assert (cut.shape, cut.width) == ((16, 4, 4), 256)
    with pytest.raises(
        ConfigError, match=r"method\.junction: no cut before layer '0'; choose one of auto, 1, 2"
    ):
        fork(place.task, "0")


def test_sources_that_see_alike_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is built for each view, not for each of many sources."""
    built = []
    build = Branches.build
    monkeypatch.setattr(Branches, "build", lambda *args: built.append(args) or build(*args))
    task = load_task(make_config(["model=mlp"]).task)
    found = Branches(task, ["blur", "hflip"] * 10, {}).profiles("3")
    assert len(found) == 20
    assert len(built) == 2
