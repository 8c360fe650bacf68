"""RayTransport: requests go to client actors, the next ones to whichever actor is free."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload
from harness.exchange.transport import Ticket
from harness.learning.aggregation import Accumulator
from harness.types import SubmodelId, WorkerLost

T = TypeVar("T")
DEPTH = 2
"""Chunks of requests queued at an actor, so that it never waits for the next one."""


class Spawn(Protocol):
    """Starts client actors."""

    def __call__(self, count: int, *, if_free: bool) -> list[ActorHandle[Any]]:
        """`if_free`: only as many as fit the cluster's free share now; else all, waiting for room."""


class RayTransport:
    """Lives in the server's process and owns the list of client actors."""

    def __init__(
        self,
        actors: Sequence[ActorHandle[Any]],
        *,
        job: ObjectRef[Any],
        spawn: Spawn,
        max_actors: int,
        sticky: bool,
    ) -> None:
        """`sticky` keeps a client on one actor for a whole round."""
        self.actors = list(actors)
        self.job = job
        self.spawn = spawn
        self.max_actors = max_actors
        self.sticky = sticky

    @property
    def num_workers(self) -> int:
        return len(self.actors)

    def begin_round(self, num_clients: int) -> None:
        """Grow towards max_actors where the cluster has room for it."""
        wanted = min(self.max_actors, num_clients) - len(self.actors)
        if wanted > 0:
            self._adopt(self.spawn(wanted, if_free=True))

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        refs: dict[int, ObjectRef[Any]] = {}
        for payload in down:
            if id(payload) not in refs:
                refs[id(payload)] = ray.put(payload)
        of = {id(request): refs[id(payload)] for request, payload in zip(requests, down, strict=True)}

        def submit(actor: ActorHandle[Any], chunk: Sequence[Request]) -> ObjectRef[Any]:
            (request,) = chunk
            return actor.invoke.remote(request, of[id(request)])

        # One at a time: a reply may be large, and lies in a network that the next client uses.
        replies: list[Reply] = self._spread(requests, submit, most=1)
        return [reply.copied() for reply in replies]

    def submit(self, request: Request, down: Payload) -> Ticket:
        # One client always to the same actor of these: its state may not lie in the store yet.
        actor = self.actors[request.client % len(self.actors)]
        return actor.invoke.remote(request, down)

    def collect(self, tickets: Sequence[Ticket]) -> list[Reply]:
        return [reply.copied() for (reply,) in guarded(tickets)]

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        empty = ray.put(into.fresh())
        refs = {submodel: ray.put(payload) for submodel, payload in down.items()}
        opened = [actor.open_sum.remote(empty) for actor in self.actors]

        def submit(actor: ActorHandle[Any], chunk: Sequence[Request]) -> ObjectRef[Any]:
            names = list(dict.fromkeys(request.wants for request in chunk))
            return actor.add.remote(chunk, names, *(refs[name] for name in names))

        receipts: list[Receipt] = self._spread(requests, submit, most=len(requests))
        for partial in self._all("close_sum"):
            into.merge(partial)
        guarded(opened)
        return receipts

    def flush(self) -> None:
        if self.sticky:
            self._all("flush")

    def cpu_s(self) -> Mapping[str, float]:
        """Of every actor's process. Raises WorkerLost where one died."""
        names = [actor._actor_id.hex() for actor in self.actors]
        return dict(zip(names, self._all("cpu_s"), strict=True))

    def reset(self) -> None:
        """Keep the living, forget what they did in this round, replace the dead."""
        living: list[ActorHandle[Any]] = []
        for actor in self.actors:
            try:
                ray.get(actor.reset.remote())
                living.append(actor)
            except RayActorError:
                continue
        missing = len(self.actors) - len(living)
        self.actors = living
        if missing:
            self._adopt(self.spawn(missing, if_free=False))

    def _adopt(self, actors: list[ActorHandle[Any]]) -> None:
        guarded([actor.setup.remote(self.job) for actor in actors])
        self.actors.extend(actors)

    def _all(self, name: str, *words: Any) -> list[Any]:
        return guarded([getattr(actor, name).remote(*words) for actor in self.actors])

    def _spread(
        self,
        requests: Sequence[Request],
        submit: Callable[[ActorHandle[Any], Sequence[Request]], ObjectRef[Any]],
        *,
        most: int,
    ) -> list[Any]:
        """Answers in the order of `requests`, which go out in chunks of at most `most`.

        Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers 1987): each chunk is
        a fixed share of what is left, so there are few calls and no actor ends long after the others.
        """
        queues = self._queues(requests)
        sharing = 1 if self.sticky else len(self.actors)
        answers: dict[int, Any] = {}
        flying: dict[ObjectRef[Any], tuple[list[int], int]] = {}

        def feed(slot: int) -> None:
            queue = queues[slot]
            size = min(most, -(-len(queue) // (DEPTH * sharing)))
            chunk = [queue.popleft() for _ in range(size)]
            if chunk:
                flying[submit(self.actors[slot], [requests[index] for index in chunk])] = (chunk, slot)

        for _ in range(DEPTH):
            for slot in range(len(self.actors)):
                feed(slot)
        while flying:
            done, _ = ray.wait(list(flying), num_returns=1)
            for ref, found in zip(done, guarded(done), strict=True):
                chunk, slot = flying.pop(ref)
                answers.update(zip(chunk, found, strict=True))
                feed(slot)
        return [answers[index] for index in range(len(requests))]

    def _queues(self, requests: Sequence[Request]) -> list[deque[int]]:
        if not self.sticky:
            shared = deque(range(len(requests)))
            return [shared] * len(self.actors)
        queues: list[deque[int]] = [deque() for _ in self.actors]
        for index, request in enumerate(requests):
            queues[request.client % len(self.actors)].append(index)
        return queues


def guarded(refs: Sequence[ObjectRef[Any]]) -> list[Any]:
    """ray.get, with a dead actor as WorkerLost and an error in an actor as that error itself."""
    try:
        return list(ray.get(list(refs)))
    except RayActorError as error:
        raise WorkerLost(f"a client actor died ({type(error).__name__})") from None
    except RayTaskError as error:
        raise error.cause or error from None
