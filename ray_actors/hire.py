"""Starting an actor."""

from typing import Any

from ray.actor import ActorHandle


def hire_one(actor: Any, *, cpus: float = 0.0, gpus: float = 0.0, outside: bool = False) -> ActorHandle[Any]:
    """Start one actor of a class; server and scheduler hold no core, since they work while clients wait.

    Where the caller sits in a placement group, so does the actor, unless it is to be found room `outside`.
    """
    place = "DEFAULT" if outside else None
    handle: ActorHandle[Any] = actor.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place).remote()
    return handle
