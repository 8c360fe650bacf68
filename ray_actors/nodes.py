"""What runs on every node of a cluster, asked in a process of its own: Ray's connecting cannot be given up.

`python -m ray_actors.nodes ADDRESS` prints {node: {what: version}} as JSON.
"""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Mapping

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_actors.launch import knock, no_cluster

CONNECT_S = 10
"""Seconds to join."""
LOOK_S = 120
"""Seconds for all nodes to start a process and answer."""

Versions = Mapping[str, str]


def survey(address: str) -> dict[str, Versions]:
    """Node -> its versions of Python and of the packages that must agree.

    Raises ConfigError where nothing answers, or the cluster's Ray or Python refuses this one.
    """
    knock(address)
    command = [sys.executable, "-m", "ray_actors.nodes", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found: dict[str, Versions] = json.loads(done.stdout.splitlines()[-1])
        return found
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    silent = done.returncode in (-signal.SIGALRM, -signal.SIGABRT) or not lines
    raise no_cluster(address, f"silent for {CONNECT_S} s" if silent else lines[-1])


def look() -> dict[str, str]:
    """Versions where this runs. Needs nothing of ours: it is sent as it stands."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in ("ray", "torch", "lightning", "numpy", "edge-fl-harness"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def main(address: str) -> None:
    """Ask every living node. An alarm ends the process where nobody answers."""
    signal.alarm(CONNECT_S)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    signal.alarm(LOOK_S)
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    names = [f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in nodes]
    task = ray.remote(look)
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = ray.get([task.options(num_cpus=0, scheduling_strategy=place).remote() for place in places])
    sys.stdout.write(json.dumps(dict(zip(names, answers, strict=True))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
