"""Ray and this process give the same bits, on any number of actors."""

import pytest
from conftest import Play, assert_same

from harness.run.method import method_names
from ray_actors.launch import RayRuntime

pytestmark = pytest.mark.ray


VIEWS = dict.fromkeys(
    ("fpl", "sl", "gfl", "images"), ("partition=views", "model=mlp", "method.batch_size=32")
)
"""Settings without which a method cannot run."""


@pytest.mark.parametrize("method", method_names())
def test_every_method_equals_its_local_run(method: str, play: Play, ray_runtime: RayRuntime) -> None:
    words = [f"method={method}", "scheduler.failure_probability=0.3", "runtime.min_actors=2"]
    words += [*VIEWS.get(method, ()), *(["method.junction=3"] if method in ("fpl", "sl") else [])]
    assert_same(play(words), play(words, runtime=ray_runtime))


def test_exchanges_without_a_barrier_outlast_rounds_on_any_number_of_actors(
    play: Play, ray_runtime: RayRuntime
) -> None:
    words = ["method=fedgkt", "method.mode=async", "method.server=resnet19", "method.server_epochs=1"]
    words += ["fleet.profiles={phone: 1, laptop: 1}", "method.batch_size=16", "run.num_rounds=3"]
    on_ray = play([*words, "runtime.min_actors=2"], runtime=ray_runtime)
    assert_same(play(words), on_ray)


@pytest.mark.parametrize("words", [["method.pattern=both"], ["method.pattern=switch", "method.upload=half"]])
def test_classes_of_devices_equal_their_local_run(
    words: list[str], play: Play, ray_runtime: RayRuntime
) -> None:
    words = ["method=fdnnc", "method.rank=3", "method.local_steps=null", "scheduler.policy=by_share", *words]
    words += ["scheduler.mix={big: 0.4, small: 0.6}", "runtime.min_actors=2"]
    assert_same(play(words), play(words, runtime=ray_runtime))


@pytest.mark.parametrize(
    "words", [["compression=topk", "compression.fraction=0.1"], ["compression=quantize"]]
)
def test_compressed_updates_equal_their_local_run(
    words: list[str], play: Play, ray_runtime: RayRuntime
) -> None:
    words = ["method=fedavg", *words, "scheduler.cohort_size=3", "scheduler.failure_probability=0.2"]
    assert_same(play(words), play([*words, "runtime.min_actors=2"], runtime=ray_runtime))


def test_pooled_residuals_equal_their_local_run(play: Play, ray_runtime: RayRuntime) -> None:
    words = ["method=rpn", "model=cnn", "scheduler.cohort_size=3", "method.full_sync_every=2"]
    words += ["method.top_fraction=0.3", "method.error_feedback=true", "method.keep_local_spatial=true"]
    assert_same(play(words), play([*words, "runtime.min_actors=2"], runtime=ray_runtime))


@pytest.mark.parametrize("num_actors", [1, 3])
def test_number_of_actors_changes_no_bit(num_actors: int, play: Play, ray_runtime: RayRuntime) -> None:
    words = ["method=fedavg", "scheduler.cohort_size=4"]
    on_ray = play([*words, f"runtime.min_actors={num_actors}"], runtime=ray_runtime)
    assert_same(play(words), on_ray)


def test_actors_are_added_at_round_boundaries(play: Play, ray_runtime: RayRuntime) -> None:
    words = ["method=fedavg", "runtime.min_actors=1", "runtime.max_actors=3"]
    on_ray = play(words, runtime=ray_runtime)
    assert_same(play(words), on_ray)
    assert ray_runtime.num_client_actors() == 3


def test_processes_of_server_scheduler_and_clients_differ(play: Play, ray_runtime: RayRuntime) -> None:
    play(["method=fedavg", "runtime.min_actors=2", "run.num_rounds=1"], runtime=ray_runtime)
    pids = ray_runtime.process_ids()
    assert len(set(pids)) == len(pids) == 4


@pytest.mark.parametrize("num_actors", [1, 3])
def test_rotated_submodels_equal_their_local_run(
    num_actors: int, play: Play, ray_runtime: RayRuntime
) -> None:
    words = ["method=mfl", "model=cnn", "scheduler=random_mix", "fleet.profiles={mfl_node: 1}"]
    words += ["scheduler.power_budget_w=0.01", "scheduler.failure_probability=0.2"]
    on_ray = play([*words, f"runtime.min_actors={num_actors}"], runtime=ray_runtime)
    assert_same(play(words), on_ray)
