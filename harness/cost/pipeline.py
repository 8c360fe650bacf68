"""A mini-batch cut into micro-batches: what overlaps in time, and when each part of the work is done.

As in Huang et al., "GPipe", NeurIPS 2019, over five stages: a source goes forward, its uplink carries the
activations, the server goes forward and back, the downlink carries the gradients, the source goes back. All
micro-batches of a batch pass every stage in order; a source goes forward with all of them before it goes
back with the first, and begins the next batch when it went back with the last: its step needs them all.

A source's processor, its uplink, its downlink and the server are each one serial resource; the links are
full duplex. What takes so long for the whole batch takes n_j / n of it for a micro-batch of n_j examples:
bytes and counted FLOPs are linear in them. With one micro-batch nothing overlaps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.cost.devices import DeviceProfile, OperatingPoint, Work, price

STEADY = 32
"""Batches until the clock is taken for steady, and batches of which a mean is taken then."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of one source between two turns of the server: gradients of one batch, then the next batch."""

    down_s: float = 0.0
    back_s: float = 0.0
    ahead_s: float = 0.0
    """Forward."""
    up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Split:
    """How the next batch of an exchange is cut, and which part of the work is for it."""

    sizes: Sequence[int]
    """Examples of its micro-batches; none where there is no next batch."""
    ahead_flops: Mapping[int, int]
    """Of each source: FLOPs of going forward with it; the rest is for going back with the one before."""


def stages_of(work: Work, *, ahead_flops: int, device: DeviceProfile, point: OperatingPoint) -> Stages:
    """Seconds of each stage of one exchange, by `price`: all that comes down is for going back."""
    back = price(Work(work.flops - ahead_flops, tx_bytes=0, rx_bytes=work.rx_bytes), device, point)
    ahead = price(Work(ahead_flops, tx_bytes=work.tx_bytes, rx_bytes=0), device, point)
    told = (back.link_s, back.compute_s, ahead.compute_s, ahead.link_s)
    return Stages(*(float(seconds) for seconds in told))


def micro_sizes(num_examples: int, micro_batches: int) -> list[int]:
    """Examples of each micro-batch, as equal as can be; of fewer examples than micro-batches, one each."""
    count = min(num_examples, micro_batches)
    return [num_examples // count + (index < num_examples % count) for index in range(count)]


class Pipeline:
    """The clock of sources and server over successive batches, in seconds from wherever it began."""

    def __init__(self, start: float = 0.0) -> None:
        self._start = start
        self._done: list[float] = []
        """When the server was done with each micro-batch of the last batch."""
        self._arrived: list[float] = []
        """When each micro-batch of the next one was there from all sources."""
        self._shares: list[float] = []
        """Of each micro-batch of the next one."""
        self._free: dict[tuple[int, str], float] = {}
        """When a source's processor, uplink or downlink is free."""
        self._spans: dict[int, list[tuple[float, float]]] = {}
        self._server_free = start

    def exchange(
        self,
        stages: Mapping[int, Stages],
        *,
        sizes: Sequence[int] = (),
        until: Mapping[int, float] | None = None,
    ) -> float:
        """Gradients of the batch before to these sources, and the next one's activations from them.

        `sizes`: of the next batch's micro-batches, none where there is no next batch. `until`: when the
        server gives a source up. Returns when all is done that the server, or the end, waits for.
        """
        before, self._shares = self._shares, [size / sum(sizes) for size in sizes]
        ends = {source: self._source(source, stages[source], before) for source in stages}
        last = {source: (until or {}).get(source, float("inf")) for source in stages}
        self._arrived = [
            max(min(ups[j], last[source]) for source, (_, ups) in ends.items()) for j in range(len(sizes))
        ]
        return (
            self._arrived[-1] if sizes else max(min(back, last[source]) for source, (back, _) in ends.items())
        )

    def _source(self, source: int, work: Stages, before: Sequence[float]) -> tuple[float, list[float]]:
        """When it was back with the last batch, and when each micro-batch of the next one was sent."""
        back = self._start
        for share, done in zip(before, self._done, strict=True):
            there = self._run(source, "down", done, share * work.down_s)
            back = self._run(source, "processor", there, share * work.back_s)
        ups = []
        for share in self._shares:
            ahead = self._run(source, "processor", back, share * work.ahead_s)
            ups.append(self._run(source, "up", ahead, share * work.up_s))
        return back, ups

    def serve(self, seconds: float) -> float:
        """The server's work on the batch that arrived; returns when it is done."""
        self._done = []
        for share, there in zip(self._shares, self._arrived, strict=True):
            begin = max(self._server_free, there)
            self._server_free = begin + share * seconds
            self._done.append(self._server_free)
        return self._server_free

    def busy_s(self, source: int) -> float:
        """Seconds in which a source computed, sent or received, at least one of them."""
        total, reached = 0.0, -math.inf
        for begin, end in sorted(self._spans.get(source, [])):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total

    def _run(self, source: int, resource: str, ready: float, seconds: float) -> float:
        begin = max(ready, self._free.get((source, resource), self._start))
        end = self._free[source, resource] = begin + seconds
        self._spans.setdefault(source, []).append((begin, end))
        return end


def steady(stages: Sequence[Stages], *, server_s: float, sizes: Sequence[int]) -> tuple[float, list[float]]:
    """Seconds that one of many equal batches takes, and for how many of them each source is busy."""
    pipeline = Pipeline()
    marks = []
    # Unlike sources take turns at being the last: the first batches are not yet like the others.
    for _ in range(2):
        for _ in range(STEADY):
            pipeline.exchange(dict(enumerate(stages)), sizes=sizes)
            end = pipeline.serve(server_s)
        marks.append((end, [pipeline.busy_s(source) for source in range(len(stages))]))
    (before, was), (end, busy) = marks
    return (end - before) / STEADY, [(now - then) / STEADY for now, then in zip(busy, was, strict=True)]
