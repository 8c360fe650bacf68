"""RPN: what it equals, who catches up and at what price, what a selection sends, its ablations."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from local_run import Forgetful, Play, Played, assert_same, make_config, make_job, play_job
from parrots import request
from torch import Tensor, nn
from torch.nn import functional as F

from harness.exchange.payloads import Empty
from harness.exchange.worker import Worker
from harness.run import checkpoint
from harness.run.describe import describe, exchange_rows
from harness.run.driver import preflight
from harness.types import ClientId, ConfigError

CONV = ("method=rpn", "model=cnn", "task.limit_train=40", "task.limit_test=20", "method.batch_size=8")
EVEN = ("partition=iid", "run.eval_every=9")


def weights(played: Played) -> dict[str, Tensor]:
    return dict(checkpoint.load_bytes(played.state)["method"]["weights"])


def same(left: Played, right: Played) -> bool:
    pairs = zip(weights(left).items(), weights(right).values(), strict=True)
    return all(torch.equal(tensor, other) for (_, tensor), other in pairs)


def traffic(played: Played, endpoint: str) -> dict[int, dict[int, tuple[int, int]]]:
    """Round -> client -> (rx, tx)."""
    rows = played.ledger.query(f"phase == 'train' and endpoint == '{endpoint}'").to_dict("records")
    found: dict[int, dict[int, tuple[int, int]]] = {}
    for row in rows:
        found.setdefault(row["round"], {})[row["client"]] = (row["rx_bytes"], row["tx_bytes"])
    return found


# --- what it equals


class OneByOne(nn.Module):
    """1x1 kernels alone."""

    def __init__(self, *, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(input_shape[0], 6, 1)
        self.last = nn.Conv2d(6, num_classes, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.last(F.relu(self.first(inputs))).mean(dim=(2, 3))
        return out


@pytest.mark.parametrize("model", ["test_rpn:OneByOne", "mlp"])
def test_without_kernels_to_pool_rpn_is_fl_to_the_last_bit(model: str, play: Play) -> None:
    words = [*CONV, f"model={model}", "scheduler.cohort_size=3"]
    pooled, whole = play(*words), play(*words, "method.pooling=none")
    assert same(pooled, whole)
    assert [r["cost/tx_bytes"] for r in pooled.records] == [r["cost/tx_bytes"] for r in whole.records]
    assert [r["eval/loss"] for r in pooled.records] == [r["eval/loss"] for r in whole.records]


def test_a_full_sync_every_round_is_fl_to_the_last_bit(play: Play) -> None:
    words = [*CONV, "scheduler.cohort_size=3", "scheduler.failure_probability=0.2"]
    always, fl = play(*words, "method.full_sync_every=1"), play(*words, "method.pooling=none")
    assert same(always, fl)
    assert always.records == fl.records
    assert not same(always, play(*words))


def test_fl_on_shards_of_equal_size_is_fedavg_in_weights_and_in_bytes_per_round(play: Play) -> None:
    few = ("method.lr=0.05", "method.batch_size=8", *EVEN)
    fl = play(*CONV, *EVEN, "method.pooling=none")
    fedavg = play(*CONV, *few, "method=fedavg")
    assert set(fl.job.partition.sizes) == {10}
    for name, tensor in weights(fedavg).items():
        torch.testing.assert_close(weights(fl)[name], tensor, atol=1e-6, rtol=1e-5)
    for key in ("cost/tx_bytes", "cost/rx_bytes", "cost/client_flops"):
        assert [r[key] for r in fl.records] == [r[key] for r in fedavg.records]


def test_the_mean_is_plain_whatever_clients_hold(play: Play) -> None:
    """One step on the whole shard: FL's residual is the mean of the clients' own, which FedAvg's is not."""
    words = [*CONV, "partition.alpha=0.3", "method.batch_size=0", "method.local_steps=1", "run.num_rounds=1"]
    words += ["partition.num_clients=2"]
    fl, fedavg = play(*words, "method.pooling=none"), play(*words, "method=fedavg", "method.lr=0.05")
    alone = []
    for client in range(2):
        job = make_job(make_config([*words, "method.pooling=none"]), Path("unused"))
        worker = Worker(job)
        fl.engine.method.start()
        reply = worker.invoke(request("fit_whole", client=ClientId(client), round=0), Empty())
        alone.append(reply.payload.whole)  # type: ignore[attr-defined]
    before = fl.engine.method.origin  # type: ignore[attr-defined]
    for name, tensor in weights(fl).items():
        mean = (alone[0][name] + alone[1][name]) / 2
        torch.testing.assert_close(tensor, before[name] + mean, atol=1e-6, rtol=1e-5)
    assert fl.job.partition.sizes[0] != fl.job.partition.sizes[1]
    assert any(not torch.allclose(t, weights(fedavg)[n], atol=1e-6) for n, t in weights(fl).items())


def test_kernels_stay_m0_plus_a_number(play: Play) -> None:
    played = play(*CONV, *EVEN)
    pooling, origin = played.engine.method.pooling, played.engine.method.origin  # type: ignore[attr-defined]
    for name in pooling.kernels:
        moved = weights(played)[name] - origin[name]
        assert float(moved.abs().max()) > 1e-4
        torch.testing.assert_close(
            moved, moved.mean(dim=(2, 3), keepdim=True).expand_as(moved), atol=1e-6, rtol=0
        )


def test_the_compressor_and_the_method_pool_alike(play: Play) -> None:
    """FedAvg under compression=rpn, on shards of equal size, is the method."""
    method = play(*CONV, *EVEN)
    other = play(*CONV, *EVEN, "method=fedavg", "compression=rpn", "method.lr=0.05")
    for name, tensor in weights(method).items():
        torch.testing.assert_close(weights(other)[name], tensor, atol=1e-6, rtol=1e-5)
    for key in ("cost/tx_bytes", "cost/rx_bytes"):
        assert [r[key] for r in method.records] == [r[key] for r in other.records]


# --- catching up


@pytest.mark.parametrize("ablation", [(), ("method.full_sync_every=2",), ("method.pooling=none",)])
def test_a_client_that_was_away_catches_up_with_those_that_were_there(
    ablation: Sequence[str], tmp_path: Path
) -> None:
    """After any round, every client of the cohort holds the same bits as the server."""
    words = [*CONV, *ablation, "scheduler.cohort_size=2", "run.num_rounds=4", "run.eval_every=9"]
    played = play_job(make_job(make_config(words), tmp_path))
    assert traffic(played, "catch_up")
    method = played.engine.method
    last = {c for name in ("update", "update_whole") for c in traffic(played, name).get(3, {})}
    assert len(last) == 2
    for client in last:
        version = played.engine.party.versions[client]
        state = played.engine.store.load(client, version)
        assert (state["added"]["filters"] is None) is (method.added.filters is None)  # type: ignore[attr-defined]
        if state["added"]["filters"] is not None:
            assert torch.equal(state["added"]["filters"], method.added.filters)  # type: ignore[attr-defined]
        for name, tensor in method.added.whole.items():  # type: ignore[attr-defined]
            assert torch.equal(state["added"]["whole"][name], tensor)


def test_what_catching_up_costs(play: Play) -> None:
    """As much as one round's update, however much was missed; full size after a full sync was missed."""
    words = [*CONV, "scheduler.cohort_size=2", "run.num_rounds=6", "run.eval_every=9"]
    plain = play(*words)
    (update,) = {rx for row in traffic(plain, "update").values() for rx, _ in row.values()}
    assert {pair for row in traffic(plain, "catch_up").values() for pair in row.values()} == {(update, 0)}
    seen: dict[int, int] = {}
    for round, record in enumerate(plain.records):
        cohort = set(traffic(plain, "fit")[round])
        away = {c for c in cohort if round and seen.get(c) != round - 1}
        assert set(traffic(plain, "catch_up").get(round, {})) == away
        seen |= dict.fromkeys(cohort, round)
        assert record["cost/rx_bytes"] == update * (len(cohort) + len(away))
    synced = play(*words, "method.full_sync_every=3")
    (whole,) = {rx for row in traffic(synced, "update_whole").values() for rx, _ in row.values()}
    method = synced.engine.method
    filters = 4 * sum(method.pooling.sizes)  # type: ignore[attr-defined]
    assert whole > update
    seen = {}
    for round in range(6):
        cohort = set(traffic(synced, "fit_whole" if round % 3 == 2 else "fit")[round])
        for client, (rx, _) in traffic(synced, "catch_up").get(round, {}).items():
            last_sync = round // 3 * 3 - 1
            missed_it = seen.get(client, -1) < last_sync
            since = filters if round - 1 > last_sync else 0
            assert rx == (whole + since if missed_it else update)
        seen |= dict.fromkeys(cohort, round)


def test_lost_replies_leave_the_mean_to_the_others_and_everybody_in_step(play: Play) -> None:
    played = play(*CONV, "scheduler.failure_probability=0.5", "run.num_rounds=5")
    assert sum(r["scheduler/failed"] for r in played.records) > 0
    assert not traffic(played, "catch_up")  # what goes down arrives
    nobody = play(*CONV, "scheduler.failure_probability=1", "run.num_rounds=2")
    assert not traffic(nobody, "update")
    assert all(torch.equal(t, nobody.engine.method.origin[n]) for n, t in weights(nobody).items())  # type: ignore[attr-defined]


# --- selection and ablations


@pytest.mark.parametrize(
    "ablation",
    [
        ("method.top_fraction=0.25", "method.error_feedback=true"),
        ("method.keep_local_spatial=true", "method.full_sync_every=3", "method.eval_clients=2"),
        ("method.top_fraction=0.5", "method.error_feedback=true", "method.full_sync_every=2"),
        ("method.threshold=0.001", "method.error_feedback=true"),
    ],
    ids=["feedback", "spatial", "both", "threshold"],
)
def test_ablations_charge_what_they_said_and_survive_anything(
    ablation: Sequence[str], tmp_path: Path, play: Play
) -> None:
    words = [*CONV, *ablation, "scheduler.cohort_size=3", "run.num_rounds=3", "run.eval_every=3"]
    job = make_job(make_config(words), tmp_path)
    whole = play_job(job)
    rest = play_job(job, restored=whole.commits[0].checkpoint, first=1)
    assert rest.records == whole.records[1:]
    assert rest.state == whole.state
    assert_same(whole, play(*words, transport=Forgetful))
    said = {row["endpoint"]: row for row in exchange_rows(whole.engine.method.exchanges(10))}
    for endpoint, row in said.items():
        pairs = {pair for each in traffic(whole, endpoint).values() for pair in each.values()}
        if "threshold" in ablation[0] and endpoint == "fit":
            assert all(0 < tx <= row["tx_bytes"] for _, tx in pairs)
            assert len(pairs) > 1
        else:
            assert pairs == {(row["rx_bytes"], row["tx_bytes"])}


def test_a_selection_sends_values_and_places(play: Play) -> None:
    whole, top = play(*CONV, "run.num_rounds=1"), play(*CONV, "method.top_fraction=0.25", "run.num_rounds=1")
    sizes = sum(whole.engine.method.pooling.sizes)  # type: ignore[attr-defined]
    left = -(-sizes // 4)
    (rx, tx), (_, tx_all) = traffic(top, "fit")[0][0], traffic(whole, "fit")[0][0]
    assert tx == tx_all - 4 * sizes + left * (4 + 4)
    assert rx == 0
    assert traffic(top, "update") == traffic(whole, "update")


def test_own_spatial_parts_are_scored_by_themselves(play: Play) -> None:
    words = [*CONV, "task.limit_train=80", "run.num_rounds=2", "run.eval_every=2"]
    own = play(*words, "method.keep_local_spatial=true")
    record = own.records[-1]
    assert record["eval/loss_local"] != record["eval/loss"]
    assert 0 <= record["val/accuracy_local"] <= 1
    assert "eval/accuracy_local" not in play(*words).records[-1]


def test_lemma_1_is_wrong_for_a_real_mean_residual(play: Play) -> None:
    """Most of what the kernels' mean residual is, pooling drops."""
    shares = [r["rpn/spatial_share"] for r in play(*CONV, "method.pooling=none").records]
    assert all(0.2 < share < 1 for share in shares)
    assert "rpn/spatial_share" not in play(*CONV, "run.num_rounds=1").records[0]


# --- where it starts


def test_m0_may_come_from_a_run_and_from_a_file(play: Play, tmp_path: Path) -> None:
    before = play("method=fedavg", *CONV[1:4], "run.num_rounds=1")
    file = tmp_path / "weights.pt"
    torch.save(weights(before), file)
    rpn = play(*CONV, f"method.init_checkpoint={file}", "method.lr=1e-9", "run.num_rounds=1")
    for name, tensor in weights(before).items():
        torch.testing.assert_close(weights(rpn)[name], tensor, atol=1e-6, rtol=1e-6)
    folder = tmp_path / "run"
    folder.mkdir()
    checkpoint.save(folder, before.state, next_round=1)
    assert same(rpn, play(*CONV, f"method.init_checkpoint={folder}", "method.lr=1e-9", "run.num_rounds=1"))


def test_of_a_checkpoint_that_fits_in_part_the_rest_starts_random(play: Play, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"network.0.weight": torch.zeros(16, 1, 3, 3), "network.8.bias": torch.zeros(77)}, file)
    with pytest.warns(UserWarning, match="tensors start random, such as"):
        played = play(*CONV, f"method.init_checkpoint={file}", "run.num_rounds=1")
    assert float(played.engine.method.origin["network.0.weight"].abs().max()) == 0  # type: ignore[attr-defined]
    torch.save({"elsewhere": torch.zeros(3)}, file)
    with pytest.raises(ConfigError, match="fits no tensor of the network"):
        play(*CONV, f"method.init_checkpoint={file}")
    file.write_text("no weights")
    with pytest.raises(ConfigError, match=r"method.init_checkpoint=.*: not what torch.save made"):
        play(*CONV, f"method.init_checkpoint={file}")
    with pytest.raises(ConfigError, match=r"method.init_checkpoint=nowhere.pt: no such file"):
        play(*CONV, "method.init_checkpoint=nowhere.pt")


# --- described


def test_counts_of_the_paper() -> None:
    found = describe(make_config(["method=rpn", "task=mnist", "model=bench_cnn"], base=()))
    counts = {row["name"]: row for row in found["counts"]}
    assert (counts["weights_and_biases"]["full"], counts["weights_and_biases"]["pooled"]) == (
        1_199_882,
        1_183_242,
    )
    assert (counts["conv_weights"]["full"], counts["conv_weights"]["pooled"]) == (18_720, 2_080)
    assert {row["kernel"] for row in found["layers"]} == {"3x3"}
    assert [row["endpoint"] for row in found["exchanges"]] == ["fit", "update"]
    assert found["exchanges"][0]["tx_bytes"] == found["exchanges"][1]["rx_bytes"] == 4 * 1_183_242
    fl = describe(
        make_config(["method=rpn", "task=mnist", "model=bench_cnn", "method.pooling=none"], base=())
    )
    assert [row["tx_bytes"] + row["rx_bytes"] for row in fl["exchanges"]] == [4 * 1_199_882] * 2


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("method.pooling=max", r"method.pooling: unknown value 'max'"),
        ("method.threshold=-0.1", "method.threshold must be >= 0, got -0.1"),
        ("method.top_fraction=0", r"method.top_fraction must be in \(0, 1\], got 0.0"),
        ("method.top_fraction=1.1", r"method.top_fraction must be in \(0, 1\], got 1.1"),
        ("method.full_sync_every=0", "method.full_sync_every must be >= 1, got 0"),
        ("method.eval_clients=0", "method.eval_clients must be >= 1, got 0"),
        ("method.lr=0", "method.lr must be > 0"),
    ],
)
def test_mistakes(word: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        preflight(make_config(["method=rpn", word]))


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"method.threshold and method.top_fraction both select filters"):
        preflight(make_config(["method=rpn", "method.threshold=1", "method.top_fraction=0.5"]))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["method.error_feedback=true"], "method.error_feedback has no effect without method.threshold or"),
        (["method.pooling=none", "method.full_sync_every=2"], "method.full_sync_every has no effect where"),
        (["method.pooling=none", "method.threshold=1"], "threshold or top_fraction has no effect where"),
    ],
)
def test_settings_without_effect_are_told(words: list[str], reason: str) -> None:
    with pytest.warns(UserWarning, match=reason):
        preflight(make_config(["method=rpn", *words]))
