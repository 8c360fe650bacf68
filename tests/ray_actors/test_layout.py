"""How many client actors there are and what each holds, on clusters of any shape; no Ray is started here."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from harness import loading
from harness.cost.submodel import SubmodelProfile
from harness.run.method import method_config
from harness.scheduling.scheduler import Scheduler
from harness.types import ConfigError, SubmodelId
from ray_actors.launch import even_share, plan_layout
from ray_actors.scheduler import planned
from ray_actors.sweep import bundles_of, room_for


@pytest.mark.parametrize(
    ("nodes", "count", "share"),
    [
        ([2.0], 2, 0.95),
        ([2.0], 3, 0.633),
        ([1.0, 1.0], 2, 0.9),
        ([1.0, 1.0], 3, 0.45),  # two of 0.633 do not fit on one node
        ([0.0, 4.1, 1.1], 5, 1.0),  # a head without cores
        ([0.1], 1, 0.05),
        ([], 1, 0.9),
    ],
)
def test_no_actor_needs_cores_of_two_nodes(nodes: list[float], count: int, share: float) -> None:
    found = even_share(nodes, count=count)
    assert found == share
    assert not nodes or sum(int(cores / found + 1e-9) for cores in nodes) >= count


def test_the_server_has_a_share_of_a_gpu_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}])
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    words = ["runtime.min_actors=3", "runtime.gpus_per_actor=0.25", "runtime.address=auto"]
    cfg = loading.load([*words, "runtime.server_gpus=0.25"], method_config=method_config)
    layout = plan_layout(cfg)
    assert (layout.num_actors, layout.gpus, layout.server_gpus) == (3, 0.25, 0.25)
    assert room_for(layout) == 1
    held = [bundle["GPU"] for bundle in bundles_of(cfg, layout, jobs=None) if "GPU" in bundle]
    assert held == [0.25] * 4
    cfg = loading.load([*words, "runtime.server_gpus=0.5"], method_config=method_config)
    with pytest.raises(ConfigError, match=r"3 actors beside runtime\.server_gpus needs more GPUs than the 1"):
        plan_layout(cfg)


@pytest.mark.parametrize("method", ["fedavg", "split_learning", "images"])
def test_a_scheduler_plans_alike_without_the_methods_own_configuration(method: str) -> None:
    words = [f"method={method}", "partition.num_clients=6", "scheduler.cohort_size=3", "method.local_steps=3"]
    words += ["partition=views", "task=digits"] if method == "images" else []
    cfg = loading.load(words, method_config=method_config)
    light = planned(cfg)
    assert type(light.method).__module__.startswith(("harness.cost.", "harness.config"))
    sizes = np.arange(20, 26)
    for name in ("states", "plan"):
        found = []
        for told in (cfg, light):
            scheduler = Scheduler(told, sizes)
            if name == "states":
                seen = scheduler.states(0.0).examples_seen
                assert seen is not None
                found.append(seen.tolist())
            else:
                submodel = SubmodelProfile(SubmodelId("full"), 10, 10, 60, 40, 0)
                found.append(repr(scheduler.plan(0, {submodel.name: submodel})))
        assert found[0] == found[1]


@pytest.mark.ray
def test_a_schedulers_process_imports_no_lightning() -> None:
    program = "import sys, ray_actors.scheduler; sys.exit('lightning' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
