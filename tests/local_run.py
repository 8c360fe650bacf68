"""Runs of a few milliseconds in this process, and a task whose numbers fit in the head."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness import loading
from harness.config import Config, MethodConfig, TaskConfig
from harness.data.task import Examples, Shard, Splits, Task
from harness.data.tasks import load_task
from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload
from harness.exchange.transport import LocalTransport
from harness.exchange.worker import Job, Worker
from harness.learning.aggregation import Accumulator
from harness.learning.workplace import Workplace
from harness.run.driver import partition_for
from harness.run.engine import Engine
from harness.run.method import load_method, method_config
from harness.run.records import Commit
from harness.scheduling.scheduler import Scheduler
from harness.types import SubmodelId

TINY = (
    "task=synthetic",
    "task.options={num_train: 100, num_test: 30, num_classes: 4, image_size: 8}",
    "model=logistic",
    "partition=dirichlet",
    "partition.num_clients=4",
    "run.num_rounds=3",
    "runtime.transport=local",
)
"""90 training examples of 64 pixels at 4 clients; a logistic regression of 64 x 4 + 4 numbers."""

MakeTransport = Callable[[Job], LocalTransport]


class Forgetful(LocalTransport):
    """Builds every client anew for every exchange: what is not in its state is lost."""

    def __init__(self, job: Job) -> None:
        super().__init__(Worker(job))

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        replies = []
        for request, payload in zip(requests, down, strict=True):
            replies += super().call([request], [payload])
            self._forget()
        return replies

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        receipts = []
        for request in requests:
            receipts += super().reduce([request], down, into)
            self._forget()
        return receipts

    def _forget(self) -> None:
        self.worker.flush()
        self.worker.resident = None


@dataclass
class Played:
    """A run and what it left."""

    engine: Engine
    job: Job
    commits: list[Commit]

    @property
    def records(self) -> list[dict[str, int | float]]:
        return [dict(commit.record) for commit in self.commits]

    @property
    def ledger(self) -> pd.DataFrame:
        frames = [commit.ledger.astype(dict.fromkeys(LABELS, object)) for commit in self.commits]
        return pd.concat(frames, ignore_index=True)

    @property
    def state(self) -> bytes:
        """Of the last checkpoint."""
        last = self.commits[-1].checkpoint
        assert last is not None
        return last


Play = Callable[..., Played]
"""The fixture `play`."""
LABELS = ("phase", "endpoint", "submodel", "status")


def make_config(words: Sequence[str] = (), *, base: Sequence[str] = TINY) -> Config:
    return loading.load([*base, *words], method_config=method_config)


def make_job(cfg: Config, state_dir: Path) -> Job:
    task = load_task(cfg.task)
    splits = task.load()
    return Job(
        cfg=cfg,
        task=task,
        splits=splits,
        partition=partition_for(cfg, task=task, splits=splits),
        client_class=load_method(cfg.method.name).Client,
        state_dir=state_dir,
    )


def local_transport(job: Job) -> LocalTransport:
    return LocalTransport(Worker(job))


def start(job: Job, *, transport: MakeTransport = local_transport, restored: bytes | None = None) -> Engine:
    scheduler = Scheduler(job.cfg, job.partition.sizes)
    return Engine(job, transport=transport(job), scheduler=scheduler, restored=restored)


def play_job(
    job: Job, *, transport: MakeTransport = local_transport, restored: bytes | None = None, first: int = 0
) -> Played:
    """Rounds `first` to the last; stops where a commit says that the run is done."""
    engine = start(job, transport=transport, restored=restored)
    commits = []
    for round in range(first, job.cfg.run.num_rounds):
        commits.append(engine.run_round(round))
        if commits[-1].done:
            break
    return Played(engine, job, commits)


def assert_same(left: Played, right: Played) -> None:
    """Records, ledgers and checkpoints equal to the last bit."""
    assert left.records == right.records
    pd.testing.assert_frame_equal(left.ledger, right.ledger, check_exact=True)
    assert [c.checkpoint for c in left.commits] == [c.checkpoint for c in right.commits]


class Points(Task):
    """Vectors [N, D] that are handed out as they are stored."""

    def __init__(self, *, width: int = 2, num_classes: int = 2) -> None:
        super().__init__(TaskConfig(name="points", model="logistic"))
        self.input_shape = (width,)
        self.num_classes = num_classes
        self.num_train = 0

    def load(self) -> Splits:
        raise NotImplementedError

    def to_inputs(self, rows: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(rows.astype(np.float32))

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs


def points(inputs: Sequence[Sequence[float]], targets: Sequence[int]) -> Examples:
    return Examples(np.array(inputs, np.float32), np.array(targets, np.int64))


def whole(task: Task, examples: Examples) -> Shard:
    """All examples as one shard."""
    return Shard(task, examples, np.arange(len(examples)))


def make_place(*words: str, task: Task | None = None, splits: Splits | None = None) -> Workplace:
    return Workplace(make_config(words), task=task or Points(), splits=splits, threads=1)


def with_method(cfg: Config, method: MethodConfig, **sections: Any) -> Config:
    """`cfg` with another method section, and other sections where given."""
    return dataclasses.replace(cfg, method=method, **sections)
