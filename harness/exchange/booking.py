"""The books of one round: what everything costs, on the ledger, and what time it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness.cost.devices import Cost, DeviceProfile, Work, price, price_idle
from harness.cost.ledger import Entry, Ledger
from harness.cost.meter import Meter
from harness.cost.pipeline import Pipeline, Split, Stages, stages_of
from harness.exchange.client import Receipt, Request
from harness.types import SERVER, ClientId, Phase, Status


class Booking:
    """Seconds run from the round's start, so that its cost does not depend on when it began.

    Only the train phase moves the clock: setup and evaluation are charged under their own names. The server
    is one serial resource: what arrives while it computes waits for it.
    """

    def __init__(self, round: int, *, ledger: Ledger, meter: Meter, server: DeviceProfile) -> None:
        self.round = round
        self.phase = Phase.TRAIN
        self.elapsed = 0.0
        self.receipts: list[Receipt] = []
        """Of the train phase, in the order of arrival."""
        self._ledger = ledger
        self._meter = meter
        self._server = server
        self._server_busy_s = 0.0
        self._free_at: dict[ClientId, float] = {}
        self._busy_s: dict[ClientId, float] = {}
        self._pipeline: Pipeline | None = None
        """The clock of batches cut into micro-batches."""

    def free_at(self, client: ClientId) -> float:
        """When a client can start something new."""
        return max(self.elapsed, self._free_at.get(client, 0.0))

    def advance(self, to: float) -> None:
        """Let time pass; never backwards."""
        if self.phase is Phase.TRAIN:
            self.elapsed = max(self.elapsed, to)

    def settle_server(self) -> None:
        """Charge what the server computed since the last exchange, and let the clock run for it."""
        flops = self._meter.take()
        if not flops:
            return
        cost = price(Work(flops=flops, tx_bytes=0, rx_bytes=0), self._server, self._server.full_speed())
        seconds, joules = float(cost.compute_s), float(cost.compute_j)
        line = self._line(SERVER, "server")
        self._ledger.charge(Entry(**line, flops=flops, compute_s=seconds, compute_j=joules))
        if self.phase is Phase.TRAIN:
            self._server_busy_s += seconds
            pipeline = self._pipeline
            self.advance(self.elapsed + seconds if pipeline is None else pipeline.serve(seconds))

    @contextmanager
    def under(self, phase: Phase) -> Iterator[None]:
        """Book what happens inside under another phase."""
        self.settle_server()
        before, self.phase = self.phase, phase
        yield
        self.settle_server()
        self.phase = before

    def barrier(self, receipts: Sequence[Receipt], split: Split | None = None) -> None:
        """Book exchanges that began when they were requested, and wait for all; by `split` parts overlap."""
        if split is not None:
            self._overlap(receipts, split)
            return
        finishes = [self.charge(receipt, start=receipt.request.elapsed_s) for receipt in receipts]
        self.advance(max(finishes, default=0.0))

    def _overlap(self, receipts: Sequence[Receipt], split: Split) -> None:
        """Book exchanges whose parts overlap each other and the server's work; each costs what it costs.

        A deadline judges each exchange as if its parts came one after another.
        """
        if self._pipeline is None:
            self._pipeline = Pipeline(self.elapsed)
        stages: dict[int, Stages] = {}
        until: dict[int, float] = {}
        for receipt in receipts:
            self._enter(receipt)
            r = receipt.request
            ahead = split.ahead_flops.get(r.client, 0)
            stages[r.client] = stages_of(receipt.work, ahead_flops=ahead, device=r.device, point=r.point)
            if r.deadline_s is not None and receipt.work.tx_bytes:  # as in finish_of
                until[r.client] = r.deadline_s
        self.advance(self._pipeline.exchange(stages, sizes=split.sizes, until=until))

    def _enter(self, receipt: Receipt) -> Cost:
        """On the ledger; the clock stands still."""
        cost = price(receipt.work, receipt.request.device, receipt.request.point)
        self._ledger.charge(entry_of(receipt, cost, round=self.round))
        if receipt.request.phase is Phase.TRAIN:
            self.receipts.append(receipt)
        return cost

    def charge(self, receipt: Receipt, *, start: float) -> float:
        """Book one exchange begun at `start`; returns when the server stops waiting for it."""
        request = receipt.request
        cost = self._enter(receipt)
        if request.phase is not Phase.TRAIN:
            return self.elapsed
        self._free_at[request.client] = start + float(cost.busy_s)
        self.occupy(request.client, start=start, seconds=float(cost.busy_s))
        return finish_of(request, receipt.work, start=start)

    def occupy(self, client: ClientId, *, start: float, seconds: float) -> None:
        """Count a client as busy; what lies before this round was counted in that one."""
        busy = seconds if start >= 0 else max(start + seconds, 0.0)
        self._busy_s[client] = self._busy_s.get(client, 0.0) + busy

    def charge_waits(self, clients: dict[ClientId, DeviceProfile]) -> None:
        """Whoever takes part pays for the time it was not busy."""
        for client, device in clients.items():
            overlapped = self._pipeline.busy_s(client) if self._pipeline else 0.0
            self._charge_idle(client, device, self.elapsed - self._busy_s.get(client, 0.0) - overlapped)
        self._charge_idle(SERVER, self._server, self.elapsed - self._server_busy_s)

    def _charge_idle(self, client: ClientId, device: DeviceProfile, seconds: float) -> None:
        if seconds > 0:
            line = self._line(client, "wait")
            self._ledger.charge(Entry(**line, idle_s=seconds, idle_j=float(price_idle(seconds, device))))

    def _line(self, client: ClientId, endpoint: str) -> dict[str, Any]:
        """What is no exchange: the server's work, and waiting."""
        return {
            "round": self.round,
            "phase": str(self.phase),
            "client": int(client),
            "endpoint": endpoint,
            "submodel": "",
            "status": str(Status.OK),
        }


def finish_of(request: Request, work: Work, *, start: float) -> float:
    """When the server has the reply of an exchange begun at `start`, or, at a barrier, gives it up."""
    finish = start + float(price(work, request.device, request.point).busy_s)
    if request.deadline_s is None or request.commit is not None or not work.tx_bytes:
        return finish
    return min(finish, request.deadline_s)


def entry_of(receipt: Receipt, cost: Cost, *, round: int) -> Entry:
    """The ledger's line of one exchange, in the round in which its reply arrived."""
    request, work = receipt.request, receipt.work
    return Entry(
        round=round,
        phase=str(request.phase),
        client=int(request.client),
        endpoint=request.endpoint,
        submodel=request.submodel,
        status=str(receipt.status),
        flops=int(work.flops),
        rx_bytes=int(work.rx_bytes),
        tx_bytes=int(work.tx_bytes),
        compute_s=float(cost.compute_s),
        link_s=float(cost.link_s),
        compute_j=float(cost.compute_j),
        link_j=float(cost.link_j),
    )
