"""A worker hosts clients, one at a time, in one process: the plain class inside a Ray client actor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.data.partition import Partition
from harness.data.task import Shard, Splits, Task
from harness.exchange.client import Client, Receipt, Reply, Request, invoke
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
        self.resident: Client[Any] | None = None
        self._resident_version: int | None = None
        self._touched: set[ClientId] = set()
        self._round = -1
        self._sum: Accumulator | None = None

    def invoke(self, request: Request, down: Payload) -> Reply:
        """Answer one request."""
        return invoke(self._client(request), request, down)

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
        """Write the resident client's state; called at the end of a round."""
        self._park()

    def reset(self) -> None:
        """Forget everything since the last committed round."""
        self.resident, self._resident_version, self._round = None, None, -1
        self._touched.clear()
        self._sum = None

    def _client(self, request: Request) -> Client[Any]:
        if request.round != self._round:
            self._round = request.round
            self._touched.clear()
        known = request.client in self._touched
        version = request.round if known else request.version
        client = self.resident
        outdated = not known and version != self._resident_version
        if client is None or client.client_id != request.client or outdated:
            self._park()
            client = self._build(request.client)
            if version is not None and client.stateful:
                client.load_state_dict(self.store.load(request.client, version))
        self.resident = client
        self._touched.add(request.client)
        return client

    def _park(self) -> None:
        client = self.resident
        if client is None or not client.stateful or client.client_id not in self._touched:
            return
        self.store.save(client.client_id, self._round, client.state_dict())
        self._resident_version = self._round

    def _build(self, client_id: ClientId) -> Client[Any]:
        job = self.job
        view = job.partition.views[client_id] if job.partition.views else None
        shard = Shard(job.task, job.splits.train, job.partition[client_id], view)
        return job.client_class(client_id, job.cfg.method, shard, self.place)
