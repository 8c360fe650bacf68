"""What one process, an actor's or the server's, works with: device, meter, and one copy of each network."""

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from harness.config import Config
from harness.cost.meter import Meter
from harness.data.task import Examples, Shard, Splits, Task
from harness.learning.seeding import derive, seed_torch

M = TypeVar("M", bound=L.LightningModule)
Precision = Literal["32-true", "bf16-mixed"]


class Workplace:
    """Shared by all clients of a process, so memory grows with processes and not with clients."""

    def __init__(self, cfg: Config, *, task: Task, splits: Splits | None, threads: int) -> None:
        """`splits` is None where no data are needed (`describe`)."""
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        if cfg.runtime.accelerator != "cpu":
            # Without it cuBLAS is not deterministic, and torch refuses matrix products.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Filling fresh memory would hide reads of it, at 3 % of a training step; nothing here reads it.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.task = task
        self.splits = splits
        self.partition = cfg.partition
        self.fleet = cfg.fleet
        self.seed = cfg.run.seed
        self.threads = threads
        self.channels_last = cfg.runtime.channels_last
        self.meter = Meter(exact=cfg.runtime.exact_meter)
        self.fabric = _fabric(cfg.runtime.accelerator, cast(Precision, cfg.run.precision))
        self.shown: Mapping[str, NDArray[Any]] | None = None
        """Pictures with predictions of the last evaluation, where the task has some (`evaluation.show`)."""
        self._modules: dict[str, L.LightningModule] = {}
        self._walls: dict[str, float] = {}

    def split(self, name: Literal["train", "val", "test"]) -> Shard:
        """A whole split as one shard."""
        assert self.splits is not None, "this workplace was built without data"
        examples: Examples = getattr(self.splits, name)
        return Shard(self.task, examples, np.arange(len(examples)))

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of convolution inputs and kernels."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def module(self, name: str, build: Callable[[], L.LightningModule]) -> L.LightningModule:
        """The process's one instance of a network. Whoever borrows it loads the weights it wants first."""
        if name not in self._modules:
            # Its random initial weights are never used; the fork keeps construction free of side effects.
            with torch.random.fork_rng():
                seed_torch(0)
                module = build()
            self._modules[name] = self.settle(module)
        return self._modules[name]

    def settle(self, module: M) -> M:
        """Move a network to this process's device and memory layout."""
        placed = module.to(self.fabric.device)
        return placed.to(memory_format=torch.channels_last) if self.channels_last else placed

    def initial(self, build: Callable[[], M], *, purpose: str = "init") -> M:
        """A new network whose initial weights depend on the run's seed and `purpose` alone."""
        with torch.random.fork_rng():
            seed_torch(derive(self.seed, purpose=purpose))
            return self.settle(build())

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's real seconds to this round's timings (never compared) under `name`."""
        started = time.perf_counter()
        yield
        self.add_wall(name, time.perf_counter() - started)

    def add_wall(self, name: str, seconds: float) -> None:
        """Add real seconds to this round's timings under `name`."""
        self._walls[name] = self._walls.get(name, 0.0) + seconds

    def take_walls(self) -> dict[str, float]:
        """What `timed` added up since the last call."""
        walls, self._walls = self._walls, {}
        return walls


@functools.cache
def _fabric(accelerator: str, precision: Precision) -> L.Fabric:
    """A process's one; making it searches every installed package for plugins (12 ms)."""
    return L.Fabric(accelerator=accelerator, devices=1, precision=precision)
