"""FPL and its alternatives: what they must equal, what they cost, sources that come, go and drop out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_run import TINY, Play, Played, make_config, make_job, play_job, start
from torch import nn

from harness.exchange.client import Reply, Request
from harness.exchange.payloads import Payload
from harness.exchange.transport import LocalTransport
from harness.exchange.worker import Worker
from harness.learning.models import make_optimizer
from harness.learning.sources import batch_order, fork, seen_by
from harness.methods.fpl import Fpl, Source
from harness.methods.gfl import scores
from harness.methods.images import to_pixels
from harness.run import checkpoint
from harness.run.describe import describe
from harness.types import ClientId, ConfigError
from lightning_modules.junction import Parallel

VIEWS = (
    *("partition=views", "partition.num_clients=2", "model=mlp", "run.num_rounds=2"),
    *("method.batch_size=32", "method.lr=0.01"),
)
FPL = ("method=fpl", "method.junction=3", *VIEWS)
SL = ("method=sl", "method.junction=3", *VIEWS)
LEAF = ("task=femnist", "model=leaf_cnn", "partition=views", "partition.num_clients=5")
ONE_BATCH = ("method.batch_size=1", "method.local_steps=1")


def method_state(played: Played) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load_bytes(played.state)["method"]["weights"]
    return found


def branches(played: Played) -> list[dict[str, torch.Tensor]]:
    """What every source holds at the end."""
    worker = Worker(played.job)
    found = []
    for client, version in sorted(played.engine.party.versions.items()):
        found.append(worker.store.load(client, version)["weights"])
    return found


def by_endpoint(played: Played) -> dict[str, tuple[int, int]]:
    """(rx, tx) bytes of all sources."""
    train = played.ledger.query("phase == 'train' and client >= 0 and endpoint != 'wait'")
    sums = train.groupby("endpoint")[["rx_bytes", "tx_bytes"]].sum()
    return {str(e): (int(row["rx_bytes"]), int(row["tx_bytes"])) for e, row in sums.iterrows()}


# --- equalities


def assert_trained_alike(played: Played, *, server: nn.Module, parts: Sequence[nn.Module]) -> None:
    """The run's networks are these, to rounding."""
    for name, tensor in method_state(played).items():
        torch.testing.assert_close(tensor, server.state_dict()[name], rtol=1e-4, atol=2e-5)
    for held, branch in zip(branches(played), parts, strict=True):
        for name, tensor in held.items():
            torch.testing.assert_close(tensor, branch.state_dict()[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("words", [FPL, SL, (*FPL, "model=cnn", "method.junction_init=average")])
def test_sources_and_server_train_as_one_network(words: Sequence[str], play: Play) -> None:
    """One optimizer over all branches and the server, the whole batch at once: the same to rounding."""
    played = play(*words)
    method, place, cfg = played.engine.method, played.engine.place, played.job.cfg.method
    assert isinstance(method, Fpl)
    parts = {str(s): place.initial(lambda: fork(place.task, method.layer).branch) for s in method.sources}
    whole = Parallel(parts, place.initial(lambda: method.upper(fork(place.task, method.layer))))
    optimizer = make_optimizer(whole.parameters(), cfg, round=0)
    train = seen_by(place, "train", method.sources)
    for round in range(2):
        for rows in batch_order(len(train), cfg, place, round=round):
            batch = train.take(rows.numpy())
            whole.training_step(batch, 0).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_trained_alike(played, server=whole.server, parts=list(parts.values()))


def test_both_sides_flops_add_up(play: Play) -> None:
    """Junction at the second layer of 64-200-200-4: 2 (64*200) below, twice; above J, 200*200 and 200*4."""
    (record,) = play(*FPL, "run.num_rounds=1").records
    assert record["cost/client_flops"] == 2 * 90 * (2 * 2 * 64 * 200)
    above = 400 * 200 + 200 * 200 + 200 * 4
    assert record["cost/server_flops"] == 90 * 3 * 2 * above


def test_without_a_junction_the_first_layer_above_takes_it_all(play: Play) -> None:
    played = play(*SL)
    assert method_state(played)["network.3.blocks.1"].shape == (200, 200)
    (one, two) = played.records
    assert two["train/loss"] < one["train/loss"]
    assert one["cost/server_flops"] == 90 * 3 * 2 * (400 * 200 + 200 * 4)


@pytest.mark.parametrize(("method", "micro_batches"), [(FPL, 3), (SL, 3), (FPL, 100)])
def test_micro_batches_make_the_step_of_the_whole_batch(
    method: Sequence[str], micro_batches: int, play: Play
) -> None:
    """Gradients add up, FLOPs and bytes stay, simulated time shrinks."""
    words = (*method, "run.num_rounds=1", "method.optimizer=sgd", "method.lr=0.1")
    whole, cut = (play(*words, f"method.micro_batches={n}") for n in (1, micro_batches))
    for name, tensor in method_state(whole).items():
        torch.testing.assert_close(method_state(cut)[name], tensor, rtol=1e-4, atol=2e-5)
    for left, right in zip(branches(whole), branches(cut), strict=True):
        for name, tensor in left.items():
            torch.testing.assert_close(right[name], tensor, rtol=1e-4, atol=2e-5)
    for one, two in zip(whole.records, cut.records, strict=True):
        same = ("client_flops", "server_flops", "tx_bytes", "rx_bytes", "compute_j", "link_j")
        assert [one[f"cost/{key}"] for key in same] == [two[f"cost/{key}"] for key in same]
        assert two["time/sim_s"] < one["time/sim_s"]
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)


def test_micro_batches_that_are_one_take_the_time_of_the_whole(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overlapping clock with nothing to overlap: the same seconds and the same waiting."""
    words = (*FPL, "run.num_rounds=1", "fleet.profiles={phone: 1, raspberry_pi_4: 1}")
    # What comes back last is empty and never too late, so nobody gives it up.
    deadline = 0.999 * float(play(*words).records[0]["time/sim_s"])
    words = (*words, f"scheduler.deadline_s={deadline}")
    whole = play(*words)
    assert whole.records[0]["time/sim_s"] > deadline
    monkeypatch.setattr("harness.methods.fpl.micro_sizes", lambda n, _: [n] if n else [])
    cut = play(*words, "method.micro_batches=2")
    for one, two in zip(whole.records, cut.records, strict=True):
        for key in ("time/sim_s", "cost/idle_j", "cost/server_j"):
            assert two[key] == pytest.approx(one[key], rel=1e-9)
        assert two["train/loss"] == one["train/loss"]


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_batch_takes_as_long_as_was_planned(micro_batches: int, play: Play) -> None:
    """The junction's price, and what one more batch of 32 adds to a round."""
    words = (*FPL, "run.num_rounds=1", f"method.micro_batches={micro_batches}", "fleet.profiles={phone: 1}")
    words = (
        *words,
        "fleet.link.model=lte",
        "task.limit_train=200",
        "task.options={num_train: 300, num_test: 30}",
    )
    short, long = (play(*words, f"method.local_steps={n}") for n in (2, 3))
    method = short.engine.method
    assert isinstance(method, Fpl)
    (placed,) = (one for one in method.placed() if one.layer == "3")
    added = long.records[0]["time/sim_s"] - short.records[0]["time/sim_s"]
    assert added == pytest.approx(32 * placed.seconds, rel=1e-9)
    train = short.ledger.query("phase == 'train' and endpoint == 'begin'")
    assert list(train["flops"]) == [32 * flops for flops in method.forward_flops]


# --- costs


def test_activations_up_and_gradients_down_and_nothing_else(play: Play) -> None:
    played = play(*FPL, "run.num_rounds=1", "method.local_epochs=2")
    # 90 examples in batches of 32, 32, 26; 200 numbers each; two sources, two epochs.
    all_bytes = 2 * 2 * 90 * 200 * 4
    assert by_endpoint(played) == {
        "begin": (0, 2 * 32 * 800),
        "step": (all_bytes - 2 * 26 * 800, all_bytes - 2 * 32 * 800),
        "finish": (2 * 26 * 800, 0),
    }
    assert played.records[0]["fpl/missing"] == 0


@pytest.mark.parametrize(
    ("words", "params", "per_sample"),
    [
        (("method=fpl", "method.junction=f1"), 55_987_710, 12_544),
        (("method=fpl", "method.junction=f2"), 53_483_966, 8_192),
        (("method=sl", "method.junction=f1"), 32_502_206, 12_544),
    ],
)
def test_the_papers_counts(words: tuple[str, ...], params: int, per_sample: int) -> None:
    found = describe(make_config([*words, *LEAF, *ONE_BATCH], base=()))
    assert [model["params"] for model in found["models"] if model["name"] == "full"] == [params]
    assert sum(row["tx_bytes"] for row in found["exchanges"]) == per_sample
    assert sum(row["rx_bytes"] for row in found["exchanges"]) == per_sample


@pytest.mark.parametrize(("layer", "wanted"), [("f1", 55_987_710), ("f2", 53_483_966)])
def test_the_control_has_as_many_parameters(layer: str, wanted: int) -> None:
    found = describe(
        make_config(["method=sl", "method.junction=f1", f"method.match={layer}", *LEAF], base=())
    )
    (params,) = (model["params"] for model in found["models"] if model["name"] == "full")
    assert abs(params - wanted) <= (15_680 + 1 + 62) / 2


def test_shared_layers_and_images_on_the_link() -> None:
    for shared, size in (("[f1, f2]", 26_206_456), ("[c2, f1, f2]", 26_411_512)):
        found = describe(make_config(["method=gfl", f"method.shared={shared}", *LEAF], base=()))
        assert [(row["rx_bytes"], row["tx_bytes"]) for row in found["exchanges"]] == [(size, size)]
        assert found["models"][0]["params"] == 6_603_710
    images = describe(make_config(["method=images", *LEAF, "task.limit_train=1000"], base=()))
    assert images["exchanges"][0]["tx_bytes"] % 784 == 0


def test_images_arrive_as_bytes_and_are_charged(play: Play) -> None:
    played = play("method=images", *VIEWS, "run.num_rounds=1")
    assert by_endpoint(played) == {"send": (0, 2 * 90 * 64)}
    assert played.records[0]["cost/client_flops"] == 0
    place = played.engine.place
    stored = place.split("val").examples.inputs[:3]
    assert torch.equal(to_pixels(place.task.to_inputs(stored), place.task), torch.from_numpy(stored))


def test_averaging_after_every_batch_costs_a_transfer_each(play: Play) -> None:
    once, often = (
        play("method=gfl", *VIEWS, "run.num_rounds=1", f"method.average={a}") for a in ("round", "batch")
    )
    assert often.records[0]["cost/tx_bytes"] == 3 * once.records[0]["cost/tx_bytes"]
    assert often.records[0]["cost/client_flops"] == once.records[0]["cost/client_flops"]
    assert once.records[0]["cost/tx_bytes"] == 2 * 4 * (200 * 200 + 200 + 200 * 4 + 4)


# --- gFL


def test_named_layers_are_common_and_the_rest_is_not(play: Play) -> None:
    played = play("method=gfl", *VIEWS, "method.shared=[3]", "partition.views=[hflip, noise]")
    shared = method_state(played)
    assert sorted(shared) == ["network.3.bias", "network.3.weight"]
    one, two = branches(played)
    mean = (one["network.3.weight"].double() + two["network.3.weight"].double()) / 2
    torch.testing.assert_close(shared["network.3.weight"].double(), mean, rtol=0, atol=1e-6)
    assert not torch.equal(one["network.1.weight"], two["network.1.weight"])


def test_a_strong_proximal_term_holds_shared_layers_alone(play: Play) -> None:
    """sgd with lr 0.01 and mu 100: shared weights go back to where they began at every step."""
    words = ("method=gfl", *VIEWS, "method.optimizer=sgd", "run.num_rounds=1", "method.shared=[3]")
    begin = method_state(play(*words, "method.lr=1e-30"))["network.3.weight"]
    free, held = (play(*words, "method.local_epochs=3", f"method.mu={mu}") for mu in (0, 90))
    moved = [float((method_state(p)["network.3.weight"] - begin).norm()) for p in (free, held)]
    assert 0 < moved[1] < 0.5 * moved[0]


def test_scores_are_means_over_networks_and_the_ensemble_votes() -> None:
    """Each of two networks is right on one of two examples, and surer there: together they miss none."""
    sure, unsure = [4.0, 0.0], [0.0, 1.0]
    found = scores([torch.tensor([sure, sure]), torch.tensor([unsure, [0.0, 9.0]])], torch.tensor([0, 1]))
    assert found["accuracy"] == 0.5
    assert found["ensemble"] == 1.0


# --- sources that come and go


def test_the_junction_follows_the_cohort_and_the_rest_stays(tmp_path: Path) -> None:
    words = (*FPL, "partition.num_clients=3", "scheduler.cohort_size=2", "run.num_rounds=4")
    engine = start(make_job(make_config(words), tmp_path))
    method = engine.method
    assert isinstance(method, Fpl)
    seen = []
    for round in range(4):
        before = dict(method.junction.blocks.items())
        begun = {name: block.detach().clone() for name, block in before.items()}
        record = engine.run_round(round).record
        after = dict(method.junction.blocks.items())
        assert record["fpl/sources"] == 2
        assert {f"fpl/weight/{name}" for name in after} <= set(record)
        for name in set(before) & set(after):
            # The same tensor, trained on, with its moments.
            assert after[name] is before[name]
            assert not torch.equal(after[name].detach(), begun[name])
            assert method.optimizer.state[after[name]]["step"] > 3 or round == 0
        seen.append(tuple(after))
    assert len(set(seen)) > 1


def test_a_run_with_changing_sources_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Blocks, their moments and what the absent ones keep: the same bits as without the stop."""
    words = (*FPL, "partition.num_clients=3", "scheduler.cohort_size=2", "run.num_rounds=5")
    job = make_job(make_config((*words, "method.missing=last")), tmp_path)
    whole = play_job(job)
    cohorts = [frozenset(k for k in r if k.startswith("fpl/weight/")) for r in whole.records]
    assert len(set(cohorts)) > 1
    for stop in (1, 3):
        rest = play_job(job, restored=whole.commits[stop].checkpoint, first=stop + 1)
        assert rest.records == whole.records[stop + 1 :]
        assert [c.checkpoint for c in rest.commits] == [c.checkpoint for c in whole.commits[stop + 1 :]]


def test_weights_tell_a_source_that_sees_nothing(play: Play) -> None:
    words = (*FPL, "partition.views=[identity, noise]", "run.num_rounds=12", "method.local_epochs=2")
    record = play(*words).records[-1]
    assert record["fpl/weight/0"] > 1.02 * record["fpl/weight/1"]


class Losing(LocalTransport):
    """Source 1 does not answer from its third exchange on."""

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        lost = [r.client == 1 and r.sequence >= 2 and r.phase == "train" for r in requests]
        return super().call([replace(r, fails=f) for r, f in zip(requests, lost, strict=True)], down)


@pytest.mark.parametrize("missing", ["zeros", "last"])
def test_a_source_that_drops_out_is_counted_and_made_up_for(missing: str, play: Play) -> None:
    played = play(*FPL, f"method.missing={missing}", transport=lambda job: Losing(Worker(job)))
    # Three batches a round; the third of source 1 is missing.
    assert [r["fpl/missing"] for r in played.records] == [1, 1]
    assert [r["scheduler/failed"] for r in played.records] == [1, 1]
    method = played.engine.method
    assert isinstance(method, Fpl)
    stand_in = method._part(ClientId(1), None, 5)
    assert stand_in.shape == (5, 200)
    assert bool(stand_in.any()) == (missing == "last")
    kept = checkpoint.load_bytes(played.state)["method"]["last"]
    assert set(kept) == ({"0", "1"} if missing == "last" else set())


def test_where_nobody_answers_nothing_is_learnt(play: Play) -> None:
    record = play(*FPL, "scheduler.failure_probability=1").records[0]
    assert "train/loss" not in record
    assert record["fpl/missing"] == 6


def test_sources_stay_in_memory_and_reach_the_disk_once_a_round(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    before = Source.state_dict
    monkeypatch.setattr(Source, "state_dict", lambda self: saved.append(self.client_id) or before(self))
    play(*FPL)
    assert sorted(saved) == [0, 0, 1, 1]


def test_it_stops_once_the_validation_loss_no_longer_falls(play: Play) -> None:
    """With no step to speak of the loss stays what it is: two evaluations after the first, and out."""
    played = play(*FPL, "method.lr=1e-30", "method.patience=2", "run.num_rounds=9")
    assert len(played.records) == 3
    assert played.commits[-1].done


# --- placement


def test_the_cheapest_cut_is_found_by_price() -> None:
    words = ["method=fpl", "task=mnist", "model=leaf_cnn", "partition=views", "partition.num_clients=5"]
    found = describe(make_config(words, base=()))
    table = {row["layer"]: row for row in found["placement"]}
    assert list(table) == ["relu1", "pool1", "c2", "relu2", "pool2", "flatten", "f1", "relu3", "f2"]
    best = min(table.values(), key=lambda row: row["seconds"])
    (up,) = {row["tx_bytes"] for row in found["exchanges"] if row["endpoint"] == "begin"}
    assert best["link_bytes"] == 2 * 5 * up / 64
    assert best["seconds"] <= min(table["f1"]["seconds"], table["f2"]["seconds"])


# --- sources of different type

MIXED = ("partition.num_clients=3", "partition.views=[identity, sensor, hflip]", "model=cnn")


@pytest.mark.parametrize("method", [("method=fpl", "method.junction=7"), ("method=sl", "method.junction=7")])
def test_images_and_a_sensor_train_as_one_network(method: Sequence[str], play: Play) -> None:
    """Branches of 128 and 200 wide outputs, of 64 pixels and of 16 means; to rounding, as one network."""
    words = (*method, *VIEWS, *MIXED, "method.optimizer=sgd", "method.lr=0.1", "run.num_rounds=1")
    played = play(*words)
    method_, place, cfg = played.engine.method, played.engine.place, played.job.cfg.method
    assert isinstance(method_, Fpl)
    assert method_.junction.widths == {"0": 128, "1": 200, "2": 128}
    parts = {s: place.initial(lambda s=s: method_.held.build(s, "7")) for s in method_.sources}
    server = place.initial(lambda: method_.upper(fork(place.task, "7")))
    whole = method_.held.together(parts, server)
    optimizer = make_optimizer(whole.parameters(), cfg, round=0)
    train = seen_by(place, "train", method_.sources)
    for rows in batch_order(len(train), cfg, place, round=0):
        batch = train.take(rows.numpy())
        assert batch.inputs.shape[1:] == (64 + 16 + 64,)
        whole.training_step(batch, 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert_trained_alike(played, server=whole.server, parts=list(parts.values()))


def test_what_unlike_sources_exchange_is_what_describe_says(play: Play) -> None:
    words = (*VIEWS, *MIXED, "method=fpl", "method.junction=7", "run.num_rounds=1", "method.missing=last")
    played = play(*words)
    found = describe(played.job.cfg)
    assert [m["name"] for m in found["models"]] == ["branch", "branch-sensor", "server", "full"]
    assert found["models"][1]["params"] == 16 * 200 + 200 + 200 * 200 + 200
    said = {(r["submodel"], r["endpoint"]): (r["rx_bytes"], r["tx_bytes"]) for r in found["exchanges"]}
    train = played.ledger.query("phase == 'train' and client >= 0 and endpoint != 'wait'")
    for client, name in enumerate(("branch", "branch-sensor", "branch")):
        mine = train[train["client"] == client]
        assert set(mine["submodel"]) == {name}
        sums = mine.groupby("endpoint")[["rx_bytes", "tx_bytes"]].sum()
        assert sums.loc["begin"].tolist() == list(said[name, "begin"])
        assert sums.loc["finish"].tolist() == list(said[name, "finish"])


def test_unlike_sources_go_on_from_a_checkpoint_and_are_placed(tmp_path: Path) -> None:
    words = (*VIEWS, *MIXED, "method=fpl", "run.num_rounds=3", "method.branches={hflip: mlp}")
    words = (*words, "scheduler.cohort_size=2", "method.micro_batches=2", "task.augment=[hflip]")
    job = make_job(make_config(words), tmp_path)
    whole = play_job(job)
    rest = play_job(job, restored=whole.commits[0].checkpoint, first=1)
    assert rest.records == whole.records[1:]
    table = describe(job.cfg)["placement"]
    # Two sources send 200 numbers whatever the cut; the images' branch as many as the layer gives.
    links = {row["layer"]: row["link_bytes"] for row in table}
    assert links["7"] == 2 * 4 * (128 + 200 + 200)
    assert links["2"] == 2 * 4 * (16 * 64 + 200 + 200)


# --- refused


@pytest.mark.parametrize("name", ["fpl", "sl", "gfl", "images"])
def test_sources_must_see_the_same_and_be_two(name: str) -> None:
    for words, message in (
        (["partition=iid"], "partition.name must be views for method .*: its sources would hold different"),
        (["partition.num_clients=1"], "partition.num_clients must be >= 2 for method .*, got 1: one source"),
    ):
        with pytest.raises(ConfigError, match=message):
            describe(make_config([f"method={name}", *VIEWS, *words], base=TINY))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=fpl", "method.junction=f9"],
            r"method\.junction: no cut before layer 'f9'; choose one of auto, 2",
        ),
        (["method=sl", "method.junction=4"], r"method\.junction=4: layer '4' is no fully connected layer"),
        (["method=sl", "method.junction=3", "method.match=f9"], r"method\.match: no cut before layer 'f9'"),
        (["method=sl", "model=mfl_cnn"], "method.junction=auto: the network has no layer before which it"),
        (["method=fpl", "model=logistic"], r"method\.junction: task\.model=logistic cannot be cut"),
        (["method=fpl", "method.missing=last2"], "method.missing must be one of zeros, last, got 'last2'"),
        (["method=fpl", "method.micro_batches=0"], r"method\.micro_batches must be >= 1, got 0"),
        (
            ["method=fpl", "method.branches={sensor: mlp}"],
            r"method\.branches: no source has view \['sensor'\]",
        ),
        (["method=fpl", "method.branches={blur: logistic}"], r"blur: logistic: it needs two or more layers"),
        (
            ["method=fpl", "partition.views=[blur, sensor]", "method.branches={sensor: cnn}"],
            r"method\.branches: sensor: cnn: .*",
        ),
        (["method=gfl", "partition.views=[blur, sensor]"], "method gfl needs images, and .'sensor'. gives"),
        (["method=images", "partition.views=[blur, sensor]"], "method images needs images"),
        (["method=gfl", "method.shared=[f9]"], r"method\.shared: no layer \['f9'\] with parameters"),
        (["method=gfl", "method.average=day"], "method.average must be round or batch"),
    ],
)
def test_settings_that_cannot_work(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        describe(make_config([*VIEWS, *words], base=TINY))
