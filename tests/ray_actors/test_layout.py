"""How many client actors there are and what each holds, on clusters of any shape; no Ray is started here."""

import pytest
import ray

from harness import loading
from harness.run.method import method_config
from harness.types import ConfigError
from ray_actors.launch import even_share, plan_layout
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
