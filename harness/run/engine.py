"""The engine plays rounds: plan, exchange, evaluate, record. The plain class inside the Ray server actor."""

import copy
import time
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.cost.ledger import Ledger
from harness.cost.submodel import SubmodelProfile
from harness.exchange.cohort import Cohort, Party
from harness.exchange.compression import remembers
from harness.exchange.flights import Flight
from harness.exchange.states import StateStore
from harness.exchange.transport import Transport
from harness.exchange.worker import Job
from harness.learning.seeding import derive, seed_torch
from harness.learning.workplace import Workplace
from harness.run import checkpoint
from harness.run.energy import CPU_KEY
from harness.run.method import load_method
from harness.run.records import Commit
from harness.run.traffic import submodels_of
from harness.scheduling.fleet import build_fleet, server_profile
from harness.scheduling.plan import RoundPlan
from harness.types import SERVER, ClientId, Phase, Status, SubmodelId, WorkerLost


class Planner(Protocol):
    """A Scheduler, or a handle to one elsewhere."""

    def plan(self, round: int, submodels: Mapping[SubmodelId, SubmodelProfile]) -> RoundPlan: ...
    def observe(self, clients: NDArray[np.int64], joules: NDArray[np.float64], *, seconds: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def cpu_s(self) -> Mapping[str, float]: ...


class Engine:
    """A round is a transaction: it is played to its end, or played again from the state of its start."""

    def __init__(
        self, job: Job, *, transport: Transport, scheduler: Planner, restored: bytes | None = None
    ) -> None:
        cfg = job.cfg
        self.cfg = cfg
        self.transport = transport
        self.scheduler = scheduler
        self.place = Workplace(cfg, task=job.task, splits=job.splits, threads=cfg.runtime.server_threads)
        self.method = load_method(cfg.method.name)(cfg.method, self.place)
        self.submodels = submodels_of(self.method, cfg.compression)
        self.store = StateStore(job.state_dir)
        self.party = Party(
            client_class=job.client_class,
            partition=job.partition,
            fleet=build_fleet(cfg.fleet, num_clients=cfg.partition.num_clients, seed=cfg.run.seed),
            server=server_profile(cfg.fleet),
            transport=transport,
            ledger=Ledger(),
            place=self.place,
            remembers=remembers(cfg.compression),
        )
        self.now = 0.0
        self._retired: dict[int, list[tuple[ClientId, str]]] = {}
        self.method.start()
        self.place.meter.take()
        if restored is not None:
            self._restore(checkpoint.load_bytes(restored))
        self._start = self._snapshot()
        self._cpu_s = self._read_cpu_s()

    def run_round(self, round: int) -> Commit:
        """Play one round, again if workers were lost. Raises WorkerLost after runtime.max_retries replays."""
        started = time.perf_counter()
        retries = 0
        while True:
            try:
                if retries:
                    self._rewind()
                record, frame, walls = self._play(round)
                self._start = self._snapshot()
                break
            except WorkerLost as lost:
                retries += 1
                if retries > self.cfg.runtime.max_retries:
                    raise
                warnings.warn(f"round {round}: {lost}; replayed from its start ({retries})", stacklevel=1)
        last = round + 1 == self.cfg.run.num_rounds or self._reached(record) or self.method.done
        due = last or (round + 1) % self.cfg.run.checkpoint_every == 0
        dumped = checkpoint.dump(self._start) if due else None
        if due:
            self._drop_retired(round)
        timings = {"round": round, "time/wall_s": time.perf_counter() - started, "retries": retries, **walls}
        timings |= self._take_cpu_s()
        shown = self.place.shown if last else None
        return Commit(round, record, timings, frame, dumped, done=last, shown=shown)

    def _read_cpu_s(self) -> dict[str, float]:
        """CPU seconds so far of every process that works for the run, by its name."""
        if self.cfg.log.energy == "none":
            return {}
        try:
            return {"engine": time.process_time(), **self.scheduler.cpu_s(), **self.transport.cpu_s()}
        except WorkerLost:
            return {}  # the next round will find out, and this one cannot be told

    def _take_cpu_s(self) -> dict[str, float]:
        """Those of a round; a process that is new was started for it."""
        before, self._cpu_s = self._cpu_s, self._read_cpu_s()
        used = sum(seconds - before.get(name, 0.0) for name, seconds in self._cpu_s.items())
        return {CPU_KEY: used} if before and self._cpu_s else {}

    def _play(self, round: int) -> tuple[dict[str, int | float], Any, dict[str, float]]:
        # What a method draws from torch's own generator (dropout at the server) depends on nothing before.
        seed_torch(derive(self.cfg.run.seed, round=round, purpose="server"))
        plan = self.scheduler.plan(round, self.submodels)
        self.transport.begin_round(len(plan))
        last = round + 1 == self.cfg.run.num_rounds
        cohort: Cohort[Any] = Cohort(plan, self.party, now=self.now + plan.wait_s, last=last)
        marks = [time.perf_counter()]
        metrics = dict(self.method.round(cohort))
        duration = cohort.close()
        marks.append(time.perf_counter())
        if last or (round + 1) % self.cfg.run.eval_every == 0:
            with cohort.phase(Phase.EVAL):
                metrics.update(self.method.evaluate(cohort))
                # Where the run ends here, nobody waits for these any more, but the devices work on.
                while self._reached(metrics) and cohort.in_flight:
                    cohort.receive()
        self.transport.flush()
        marks.append(time.perf_counter())
        frame, sums = self.party.ledger.close_round()
        self._observe(frame, duration)
        cohort.commit()
        self._retired.setdefault(round, []).extend(cohort.replaced)
        self.now = cohort.now
        record = {"round": round, **metrics, **logged(cohort, self.party.partition.sizes)}
        record |= {f"cost/{name}": value for name, value in sums.items()}
        record |= {f"cost/{name}_total": value for name, value in self.party.ledger.totals.items()}
        record |= {"time/sim_s": duration, "time/sim_s_total": self.now, **shares(cohort)}
        walls = {"time/train_wall_s": marks[1] - marks[0], "time/eval_wall_s": marks[2] - marks[1]}
        walls |= self.place.take_walls()
        return record, frame, walls

    def _observe(self, frame: Any, duration: float) -> None:
        clients = frame[(frame["client"] != SERVER) & (frame["phase"] == Phase.TRAIN)]
        joules = clients.groupby("client")[["compute_j", "link_j", "idle_j"]].sum().sum(axis=1)
        self.scheduler.observe(joules.index.to_numpy(), joules.to_numpy(), seconds=duration)

    def _drop_retired(self, round: int) -> None:
        # Two checkpoints are kept on disk, and the newest may not be there yet: three stay restorable.
        keep = round - 3 * self.cfg.run.checkpoint_every
        for retired_at in [r for r in self._retired if r < keep]:
            self.store.drop(self._retired.pop(retired_at))

    def _reached(self, record: Mapping[str, int | float]) -> bool:
        value = record.get(f"val/{self.place.task.metric}")
        return self.cfg.run.target is not None and value is not None and value >= self.cfg.run.target

    def _snapshot(self) -> dict[str, Any]:
        versions = {str(client): version for client, version in self.party.versions.items()}
        return copy.deepcopy(
            {
                "method": self.method.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "now": self.now,
                "totals": self.party.ledger.totals,
                "versions": versions,
                "retired": {str(r): [[int(c), v] for c, v in kept] for r, kept in self._retired.items()},
                "flights": [flight.state_dict() for _, flight in sorted(self.party.flights.items())],
            }
        )

    def _rewind(self) -> None:
        """Back to the round's start, with every worker alive and knowing nothing of it."""
        self.party.ledger.discard()
        self.place.meter.take()
        self.place.take_walls()
        self._restore(copy.deepcopy(self._start))
        self.transport.reset()

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.now = state["now"]
        self.party.ledger.totals = dict(state["totals"])
        self.party.versions.clear()
        self.party.versions.update((ClientId(int(c)), version) for c, version in state["versions"].items())
        self._retired = {int(r): [(ClientId(c), v) for c, v in kept] for r, kept in state["retired"].items()}
        self.party.flights.clear()
        for kept in state["flights"]:
            client = ClientId(kept["client"])
            version = self.party.versions.get(client)
            self.party.flights[client] = Flight.restored(kept, fleet=self.party.fleet, version=version)


def logged(cohort: Cohort[Any], sizes: NDArray[np.int64]) -> dict[str, float]:
    """What clients logged: means over accepted replies, weighted by examples, summed in order of client."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    accepted = (r for r in cohort.receipts if r.status is Status.OK)
    for receipt in sorted(accepted, key=lambda r: (r.request.client, r.request.sequence)):
        weight = float(sizes[receipt.request.client])
        for name, value in receipt.metrics.items():
            sums[name] = sums.get(name, 0.0) + weight * value
            weights[name] = weights.get(name, 0.0) + weight
    return {name: total / weights[name] for name, total in sums.items()}


def shares(cohort: Cohort[Any]) -> dict[str, int | float]:
    """What the scheduler did, and what became of the replies."""
    count = {status: sum(r.status is status for r in cohort.receipts) for status in Status}
    if count[Status.REFUSED]:
        refused = sorted({int(r.request.client) for r in cohort.receipts if r.status is Status.REFUSED})
        warnings.warn(
            f"round {cohort.plan.round}: replies of clients {refused} refused (not finite or out of range)",
            stacklevel=1,
        )
    found: dict[str, int | float] = {f"scheduler/share/{n}": s for n, s in cohort.plan.shares().items()}
    found["scheduler/skipped"] = sum(cohort.plan.skipped.values())
    found |= {f"scheduler/skipped/{reason}": n for reason, n in cohort.plan.skipped.items()}
    found |= {f"scheduler/{s}": count[s] for s in (Status.LATE, Status.FAILED, Status.REFUSED)}
    return found
