"""A worker hosts clients, one at a time, in one process: the plain class inside a Ray client actor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.data.partition import Partition
from harness.data.task import Shard, Splits, Task
from harness.exchange.client import Client, Receipt, Reply, Request, invoke, keep, take_up
from harness.exchange.compression import build_compressor
from harness.exchange.payloads import Payload
from harness.exchange.states import StateStore
from harness.learning.aggregation import Accumulator
from harness.learning.workplace import Workplace
from harness.types import ClientId, Status


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker, an engine or a scheduler needs to know of a run."""

    cfg: Config
    task: Task
    splits: Splits
    partition: Partition
    client_class: type[Client[Any]]
    state_dir: Path


class Worker:
    """Any worker may serve any client: what a client keeps lies in the state store at each round's end."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.place = Workplace(
            job.cfg, task=job.task, splits=job.splits, threads=job.cfg.runtime.client_threads
        )
        self.store = StateStore(job.state_dir)
        self.compressor = build_compressor(job.cfg.compression)
        self.resident: Client[Any] | None = None
        self._resident_version: str | None = None
        self._unkept = False
        self._attached: dict[ClientId, tuple[Client[Any], str | None, bool]] = {}
        """Clients that stay in memory while another one is resident, their versions, whether unkept."""
        self._sum: Accumulator | None = None

    def invoke(self, request: Request, down: Payload) -> Reply:
        """Answer one request."""
        client = self._client(request)
        reply = invoke(client, request, down, self.compressor)
        if client.stateful or (self.compressor is not None and self.compressor.remembers):
            # Without a barrier the state after is kept at once, beside that before: it may have to run again.
            self._resident_version = request.commit or str(request.round)
            self._unkept = True
            if request.commit is not None:
                self._park()
        return reply

    def open_sum(self, empty: Accumulator) -> None:
        """Start this worker's partial sum."""
        self._sum = empty.fresh()

    def add(self, request: Request, down: Payload) -> Receipt:
        """Answer one request and add the reply, if it counts, to the partial sum instead of returning it."""
        assert self._sum is not None, "open_sum comes first"
        reply = self.invoke(request, down)
        receipt = reply.receipt
        if receipt.status is Status.OK and not self._sum.add(reply.payload):
            return Receipt(request, receipt.work, Status.REFUSED, receipt.metrics, receipt.wall_s)
        return receipt

    def close_sum(self) -> Accumulator:
        """Hand over the partial sum."""
        assert self._sum is not None, "open_sum comes first"
        done, self._sum = self._sum, None
        return done

    def flush(self) -> None:
        """Write the states of the clients in memory; called at the end of a round."""
        self._park()
        for client, version, unkept in self._attached.values():
            if unkept and version is not None:
                self.store.save(client.client_id, version, keep(client))
        self._attached = {c: (client, version, False) for c, (client, version, _) in self._attached.items()}

    def reset(self) -> None:
        """Forget everything since the last committed round."""
        self.resident, self._resident_version, self._unkept = None, None, False
        self._attached = {}
        self._sum = None

    def _client(self, request: Request) -> Client[Any]:
        client = self.resident
        known = client is not None and client.client_id == request.client
        if client is None or not known or request.version != self._resident_version:
            self._leave()
            client, version, self._unkept = self._attached.pop(request.client, (None, None, False))
            if client is None or version != request.version:
                client, self._unkept = self._build(request.client), False
                if request.version is not None:
                    take_up(client, self.store.load(request.client, request.version))
            self.resident, self._resident_version = client, request.version
        elif request.commit is not None:
            self._park()
        return client

    def _leave(self) -> None:
        """Make room for another client."""
        if self.resident is not None and self.resident.attached:
            self._attached[self.resident.client_id] = (self.resident, self._resident_version, self._unkept)
            self._unkept = False
        self._park()

    def _park(self) -> None:
        """Keep the resident client's state under its name."""
        if self._unkept and self.resident is not None and self._resident_version is not None:
            self.store.save(self.resident.client_id, self._resident_version, keep(self.resident))
        self._unkept = False

    def _build(self, client_id: ClientId) -> Client[Any]:
        job = self.job
        view = job.partition.views[client_id] if job.partition.views else None
        shard = Shard(job.task, job.splits.train, job.partition[client_id], view)
        return job.client_class(client_id, job.cfg.method, shard, self.place)
