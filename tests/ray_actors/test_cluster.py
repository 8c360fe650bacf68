"""A sweep with code of the user's own, sent to a cluster of two nodes, followed, gathered and fetched."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from harness.run.driver import execute
from harness.run.runtime import LocalRuntime
from harness.run.sweep import expand

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(600)]

HARNESS = Path(sys.executable).with_name("harness")
OWN = """
from harness.methods.fedavg import FedAvg


class Mine(FedAvg):
    '''FedAvg, in a folder that the cluster has never seen.'''

    def round(self, cohort):
        return {**super().round(cohort), "train/mine": 1.0}
"""
SWEEP = """
name: two
base:
  task: {name: synthetic, model: mlp, options: {num_train: 80, num_test: 20, num_classes: 4, image_size: 8}}
  partition: {num_clients: 4}
  method: {name: 'own:Mine'}
  run: {num_rounds: 2}
  runtime: {min_actors: 2}
grid: {run.seed: [0, 1]}
"""


@dataclass(frozen=True)
class Two:
    """The cluster, and what was sent to it."""

    address: str
    dashboard: str
    folder: Path
    """Where the sweep was sent from; `head` and `shared` in it are the head's and everybody's."""
    told: str
    """What `harness submit` printed."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """A head and a second node of one core each; started once, as is the job."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "own.py").write_text(OWN)
    (folder / "two.yaml").write_text(SWEEP)
    # One for each, as on two machines; sockets lie in them, whose paths are short.
    scratch = [tempfile.mkdtemp(prefix="ray-") for _ in range(2)]
    # The port that takes jobs is a fixed one by default, and other clusters of this machine may have it.
    nodes = [
        {
            "num_cpus": 1,
            "object_store_memory": 80 << 20,
            "temp_dir": path,
            "dashboard_agent_listen_port": port,
        }
        for path, port in zip(scratch, (free_port(), free_port()), strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        # The head finds `python` where this one is.
        patch.setenv("PATH", str(HARNESS.parent), prepend=os.pathsep)
        patch.delenv("PYTHONPATH", raising=False)
        cluster = Cluster(
            initialize_head=True,
            head_node_args=nodes[0] | {"include_dashboard": True, "dashboard_port": free_port()},
        )
        try:
            cluster.add_node(**nodes[1])
            dashboard = f"http://{cluster.head_node.webui_url}"
            where = ["--address", dashboard, "--results", folder / "head", "--to", f"file://{folder}/shared"]
            done = call("submit", *where, "sweep", "two.yaml", folder=folder)
            assert done.returncode == 0, done.stdout + done.stderr
            yield Two(cluster.address, dashboard, folder, done.stdout)
        finally:
            cluster.shutdown()
            for path in scratch:
                shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def call(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(HARNESS), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=400)


def rounds(results: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in results.glob("*/rounds.jsonl")}


def test_the_job_is_followed_and_gives_the_bits_of_a_local_run(
    two: Two, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert re.match(r"job raysubmit_\w+; `ray job logs -f raysubmit_\w+ --address http://", two.told)
    monkeypatch.syspath_prepend(str(two.folder))
    for cell in expand(two.folder / "two.yaml", words=[f"run.results_dir={tmp_path}"]):
        assert cell.cfg.run_id in two.told or cell.label in two.told
        execute(cell.cfg, runtime=LocalRuntime())
    local = rounds(tmp_path)
    assert len(local) == 2
    assert rounds(two.folder / "head") == local
    assert all(json.loads(line)["train/mine"] == 1.0 for text in local.values() for line in text.splitlines())


def test_clients_sit_on_both_nodes_and_nobody_shares_a_process(two: Two) -> None:
    actors = list_actors(address=two.dashboard, detail=True, limit=1000)
    of = {name: [a for a in actors if a.class_name == name] for name in
          ("ClientActor", "ServerActor", "SchedulerActor")}  # fmt: skip
    assert [len(found) for found in of.values()] == [2, 1, 1]
    assert len({a.node_id for a in of["ClientActor"]}) == 2
    pids = [a.pid for found in of.values() for a in found]
    assert 0 not in pids
    assert len(set(pids)) == 4


def test_results_were_gathered_on_shared_storage_and_can_be_fetched(two: Two) -> None:
    assert rounds(two.folder / "shared") == rounds(two.folder / "head")
    ask = ["fetch", two.folder / "head", "--address", two.address]
    done = call(*ask, folder=two.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("2 runs fetched\n")
    assert rounds(two.folder / "results") == rounds(two.folder / "head")
    assert {path.parent.name for path in (two.folder / "results").glob("*/summary.json")} == set(
        rounds(two.folder / "head")
    )
    assert call(*ask, folder=two.folder).stdout == "0 runs fetched\n"


def test_doctor_compares_every_node(two: Two) -> None:
    done = call("doctor", "--address", two.address, "--json", folder=two.folder)
    nodes = [line for what, line in json.loads(done.stdout).items() if what.startswith("node ")]
    assert nodes == ["as here: python, ray, torch, lightning, numpy, edge-fl-harness"] * 2
