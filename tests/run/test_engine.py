"""Whole rounds: what is charged, what is undone, what is taken up again."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from local_run import MakeTransport, Play, Played, assert_same, make_config, make_job, play_job, start

from harness.cost.devices import find_profile
from harness.cost.ledger import COSTS, sum_costs
from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload
from harness.exchange.transport import LocalTransport
from harness.exchange.worker import Job, Worker
from harness.learning.aggregation import Accumulator
from harness.run import checkpoint
from harness.types import SERVER, ClientId, SubmodelId, WorkerLost

PIXELS, CLASSES = 64, 4
PARAMS = PIXELS * CLASSES + CLASSES


def fits(played: Played) -> pd.DataFrame:
    return played.ledger[played.ledger["endpoint"] == "fit"].reset_index(drop=True)


# --- what is charged


def test_bytes_and_flops_of_every_client_by_hand(play: Play) -> None:
    played = play("method.local_epochs=2", "method.batch_size=7")
    rows = fits(played)
    sizes = played.job.partition.sizes
    assert sizes.sum() == 90
    assert rows["round"].tolist() == np.repeat(range(3), 4).tolist()
    assert rows["client"].tolist() == [0, 1, 2, 3] * 3
    assert set(rows["phase"]) == {"train"}
    assert (rows[["rx_bytes", "tx_bytes"]] == 4 * PARAMS).all(axis=None)
    # A sample costs its forward pass and the weights' gradient, 2 * 64 * 4 FLOPs each, in both epochs.
    assert rows["flops"].tolist() == (2 * 2 * 2 * PIXELS * CLASSES * sizes).tolist() * 3


def test_records_are_group_bys_over_the_ledger(play: Play) -> None:
    played = play()
    totals = dict.fromkeys(COSTS, 0.0)
    for record, commit in zip(played.records, played.commits, strict=True):
        sums = sum_costs(commit.ledger)
        for name in COSTS:
            totals[name] += sums[name]
            assert record[f"cost/{name}"] == sums[name]
            assert record[f"cost/{name}_total"] == totals[name]
        assert record["cost/client_flops"] == 90 * 4 * PIXELS * CLASSES
        assert record["cost/tx_bytes"] == record["cost/rx_bytes"] == 4 * 4 * PARAMS
    ends = np.cumsum([r["time/sim_s"] for r in played.records])
    assert [r["time/sim_s_total"] for r in played.records] == pytest.approx(ends.tolist(), rel=1e-12)


def test_evaluation_is_charged_apart(play: Play) -> None:
    played = play()
    evaluated = played.ledger[played.ledger["phase"] == "eval"]
    assert set(evaluated["client"]) == {SERVER}
    # Forward passes over val (10) and test (30), each round.
    assert evaluated["flops"].tolist() == [40 * 2 * PIXELS * CLASSES] * 3
    assert played.records[-1]["cost/server_flops_total"] == 0


def test_rounds_and_waiting_on_unit_devices_by_hand(play: Play) -> None:
    """1 FLOP, 1 byte up and 1 byte down take 1 s and 1 J each; waiting takes 1 W."""
    words = ["partition=explicit_counts", "partition.num_clients=3", "run.num_rounds=2"]
    counts = "partition.counts=[[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 3]]"
    played = play(*words, counts, "fleet.profiles={unit: 1}", "fleet.server=unit")
    link, sample = 2 * 4 * PARAMS, 4 * PIXELS * CLASSES
    busy = {0: link + sample, 1: link + 2 * sample, 2: link + 5 * sample}
    for record, commit in zip(played.records, played.commits, strict=True):
        assert record["time/sim_s"] == busy[2]
        assert record["cost/compute_j"] == 8 * sample
        assert record["cost/link_j"] == 3 * link
        assert record["cost/idle_j"] == (busy[2] - busy[0]) + (busy[2] - busy[1]) == 7 * sample
        assert record["cost/server_j"] == busy[2]
        waits = commit.ledger[commit.ledger["endpoint"] == "wait"].set_index("client")["idle_s"]
        assert waits.to_dict() == {0: 4 * sample, 1: 3 * sample, SERVER: busy[2]}
    assert played.records[-1]["time/sim_s_total"] == 2 * busy[2]


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedsgd", "centralized", "local_only"])
def test_exact_metering_equals_replayed_counts(method: str, play: Play) -> None:
    words = [f"method={method}", "model=cnn"]
    assert_same(play(*words), play(*words, "runtime.exact_meter=true"))


def test_mixed_devices_are_priced_by_their_own_constants(play: Play) -> None:
    words = ["fleet.profiles={phone: 1, laptop: 1}", "fleet.speed_sigma=0.3"]
    played = play(*words)
    rows = fits(played).query("round == 0")
    fleet = played.engine.party.fleet
    for row in rows.itertuples():
        device = fleet[ClientId(int(row.client))]
        seconds = row.flops / device.flops_per_cycle / device.max_frequency_hz
        watts = device.kappa * device.max_frequency_hz**3
        link_s = 32 * PARAMS / device.rx_bps + 32 * PARAMS / device.tx_bps
        assert row.compute_s == pytest.approx(seconds, rel=1e-12)
        assert row.compute_j == pytest.approx(watts * seconds, rel=1e-12)
        assert row.link_s == pytest.approx(link_s, rel=1e-12)
    assert rows["compute_s"].nunique() == 4


# --- replies that do not count


def test_late_replies_are_paid_for_and_dropped(play: Play) -> None:
    sample, link = 4 * PIXELS * CLASSES, 8 * PARAMS
    words = ["fleet.profiles={unit: 1}", "run.num_rounds=2"]
    sizes = play(*words).job.partition.sizes
    slowest = int(sizes.argmax())
    deadline = link + sample * (int(sizes.max()) - 1)
    played = play(*words, f"scheduler.deadline_s={deadline}")
    record = played.records[0]
    assert (record["scheduler/late"], record["time/sim_s"]) == (1, deadline)
    rows = fits(played).query("round == 0")
    assert rows.set_index("client")["status"].to_dict() == {
        client: "late" if client == slowest else "ok" for client in range(4)
    }
    assert record["cost/client_flops"] == 90 * sample
    assert record["cost/tx_bytes"] == 4 * 4 * PARAMS


def test_a_round_whose_replies_are_all_lost_changes_nothing_but_the_bill(play: Play) -> None:
    played = play("scheduler.failure_probability=1", "run.num_rounds=2")
    undisturbed = play("run.num_rounds=2")
    first, second = played.records
    assert first["scheduler/failed"] == second["scheduler/failed"] == 4
    assert first["eval/loss"] == second["eval/loss"]
    assert "train/loss" not in first
    for name in COSTS:
        assert second[f"cost/{name}_total"] == undisturbed.records[-1][f"cost/{name}_total"]


def test_planned_failures_leave_their_clients_out(play: Play) -> None:
    played = play("scheduler.failure_probability=0.5", "run.num_rounds=6")
    failed = [int(r["scheduler/failed"]) for r in played.records]
    assert 0 < sum(failed) < 24
    assert fits(played).query("status == 'failed'").groupby("round").size().to_dict() == {
        round: count for round, count in enumerate(failed) if count
    }


def test_a_client_that_answers_nan_is_refused_and_the_round_goes_on(play: Play) -> None:
    with pytest.warns(UserWarning, match=r"round 1: replies of clients \[1\] refused"):
        played = play("method=odd_methods:Poison")
    assert [r["scheduler/refused"] for r in played.records] == [0, 1, 0]
    assert all(math.isfinite(r["eval/loss"]) for r in played.records)
    rows = fits(played)
    assert rows.query("status == 'refused'")[["round", "client"]].to_numpy().tolist() == [[1, 1]]
    assert rows["tx_bytes"].eq(4 * PARAMS).all()


def test_the_others_mean_is_as_if_the_refused_client_had_failed(tmp_path: Path) -> None:
    """The refused reply enters neither the sum nor its divisor."""

    def second_round(method: str, *, losing: bool) -> bytes:
        job = make_job(make_config([f"method={method}", "run.num_rounds=2"]), tmp_path)
        transport = Losing if losing else lambda job: LocalTransport(Worker(job))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return play_job(job, transport=transport).state

    assert second_round("odd_methods:Poison", losing=False) == second_round("fedavg", losing=True)


class Losing(LocalTransport):
    """Loses the reply of client 1 in round 1."""

    def __init__(self, job: Job) -> None:
        super().__init__(Worker(job))

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        lost = [dataclasses.replace(r, fails=r.round == 1 and r.client == 1) for r in requests]
        return super().reduce(lost, down, into)


def test_exchanges_without_a_barrier_are_played_by_the_simulated_clock(play: Play) -> None:
    words = ["method=odd_methods:OneByOne", "fleet.profiles={phone: 1, laptop: 1}", "run.num_rounds=2"]
    played = play(*words)
    rows = fits(played).query("round == 1")
    assert len(rows) == 8
    finishes = sorted(
        (finish, client)
        for client, busy in (rows["compute_s"] + rows["link_s"]).groupby(rows["client"])
        for finish in busy.cumsum()
    )
    assert [client for _, client in finishes] == played.engine.method.arrivals
    assert played.records[1]["time/sim_s"] == pytest.approx(finishes[-1][0], rel=1e-12)
    assert_same(played, play(*words))


# --- randomness


def test_one_seed_gives_one_run_and_another_seed_another(play: Play) -> None:
    one, same, other = play(), play(), play("run.seed=1")
    assert_same(one, same)
    assert one.records[-1]["eval/loss"] != other.records[-1]["eval/loss"]


@pytest.mark.parametrize("method", ["centralized", "fedavg", "local_only"])
def test_networks_that_draw_from_torch_are_reproducible_too(method: str, play: Play) -> None:
    words = [f"method={method}", "model=odd_methods:Tiny"]
    torch.manual_seed(1)
    one = play(*words)
    torch.manual_seed(2)
    assert_same(one, play(*words))


def test_client_threads_are_in_force_although_the_server_has_its_own(tmp_path: Path) -> None:
    seen: dict[str, set[int]] = {"client": set(), "server": set()}

    class Watching(LocalTransport):
        def reduce(self, *words: Any) -> list[Receipt]:
            seen["server"].add(torch.get_num_threads())
            receipts = super().reduce(*words)
            seen["server"].add(torch.get_num_threads())
            return receipts

    class Watched(Worker):
        def invoke(self, request: Request, down: Payload) -> Reply:
            seen["client"].add(torch.get_num_threads())
            return super().invoke(request, down)

    try:
        job = make_job(make_config(["runtime.client_threads=2", "run.num_rounds=1"]), tmp_path)
        play_job(job, transport=lambda job: Watching(Watched(job)))
    finally:
        torch.set_num_threads(1)
    assert seen == {"client": {2}, "server": {1}}


# --- a round is a transaction


class Flaky(LocalTransport):
    """Loses its worker at given moments, after doing half of what was asked."""

    def __init__(self, job: Job, moments: Sequence[str]) -> None:
        super().__init__(Worker(job))
        self.moments = list(moments)

    def _lose(self, moment: str) -> bool:
        if self.moments and self.moments[0] == moment:
            self.moments.pop(0)
            return True
        return False

    def begin_round(self, num_clients: int) -> None:
        if self._lose("begin"):
            raise WorkerLost("gone at the beginning")

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        if self._lose("middle"):
            half = len(requests) // 2
            super().call(requests[:half], down[:half])
            raise WorkerLost("gone in the middle")
        return super().call(requests, down)

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        if self._lose("middle"):
            self.worker.open_sum(into)
            for request in requests[: len(requests) // 2]:
                self.worker.add(request, down[request.submodel])
            raise WorkerLost("gone in the middle")
        return super().reduce(requests, down, into)

    def flush(self) -> None:
        super().flush()
        if self._lose("end"):
            raise WorkerLost("gone at the end")

    def reset(self) -> None:
        if self._lose("reset"):
            raise WorkerLost("gone again")
        super().reset()


def flaky(*moments: str) -> MakeTransport:
    return lambda job: Flaky(job, moments)


@pytest.mark.parametrize(
    "moments", [("begin",), ("middle",), ("end",), ("middle", "end"), ("middle", "reset")], ids="-".join
)
@pytest.mark.parametrize("method", ["fedavg", "local_only", "odd_methods:OneByOne"])
@pytest.mark.filterwarnings("ignore:round 0")
def test_a_lost_worker_changes_no_bit(method: str, moments: tuple[str, ...], play: Play) -> None:
    words = [
        f"method={method}",
        "method.momentum=0.5",
        "scheduler.cohort_size=3",
        "fleet.profiles={phone: 1}",
    ]
    disturbed = play(*words, transport=flaky(*moments))
    assert sum(c.timings["retries"] for c in disturbed.commits) == len(moments)
    assert_same(play(*words), disturbed)


def test_it_gives_up_after_the_configured_number_of_replays(play: Play) -> None:
    with (
        pytest.warns(UserWarning, match="replayed from its start"),
        pytest.raises(WorkerLost, match="gone in the middle"),
    ):
        play("runtime.max_retries=2", transport=flaky(*["middle"] * 3))
    with pytest.warns(UserWarning, match="gone in the middle") as warned:
        play("runtime.max_retries=2", "run.num_rounds=1", transport=flaky(*["middle"] * 2))
    ends = [f"round 0: gone in the middle; replayed from its start ({n})" for n in (1, 2)]
    assert [str(w.message) for w in warned] == ends


@pytest.mark.filterwarnings("ignore:round")
def test_a_scheduler_lost_after_the_round_was_played(tmp_path: Path) -> None:
    """The snapshot belongs to the transaction, too."""
    words = ["fleet.profiles={phone: 1}", "method=local_only"]
    undisturbed = play_job(make_job(make_config(words), tmp_path / "a"))
    engine = play_job(make_job(make_config([*words, "run.num_rounds=1"]), tmp_path / "b")).engine
    engine.cfg = undisturbed.engine.cfg
    ask = engine.scheduler.state_dict
    answers = iter([False, True, True])

    def state_dict() -> dict[str, Any]:
        if not next(answers):
            raise WorkerLost("the scheduler died")
        return ask()

    engine.scheduler.state_dict = state_dict  # type: ignore[method-assign]
    commits = [engine.run_round(round) for round in (1, 2)]
    assert [dict(c.record) for c in commits] == undisturbed.records[1:]
    assert [c.checkpoint for c in commits] == [c.checkpoint for c in undisturbed.commits[1:]]


# --- checkpoints


def test_a_checkpoint_comes_when_it_is_due_and_at_the_end(play: Play) -> None:
    words = ["run.num_rounds=5", "run.checkpoint_every=2"]
    assert [c.checkpoint is not None for c in play(*words).commits] == [False, True, False, True, True]


def test_a_run_goes_on_from_any_checkpoint(play: Play, tmp_path: Path) -> None:
    words = ["fleet.profiles={phone: 1}", "scheduler.cohort_size=2", "run.num_rounds=4"]
    whole = play(*words)
    for done in range(1, 4):
        rest = play(*words, restored=whole.commits[done - 1].checkpoint, first=done)
        assert rest.records == whole.records[done:]
        assert rest.state == whole.state


@pytest.mark.parametrize("every", [1, 2])
def test_states_of_clients_live_as_long_as_a_checkpoint_may_need_them(every: int, tmp_path: Path) -> None:
    """The two checkpoints on disk and the one on its way there; what is older goes."""
    words = ["method=local_only", "run.num_rounds=14", f"run.checkpoint_every={every}"]
    job = make_job(make_config([*words, "scheduler.cohort_size=2"]), tmp_path)
    engine = start(job)
    due: list[Mapping[str, int]] = []
    for round in range(14):
        dumped = engine.run_round(round).checkpoint
        if dumped is not None:
            due.append(checkpoint.load_bytes(dumped)["versions"])
        kept = {path.name for path in tmp_path.iterdir()}
        for versions in due[-3:]:
            assert {f"{client}@{version}.pt" for client, version in versions.items()} <= kept
        assert len(kept) <= 4 + 2 * (4 * every)


def test_damaged_bytes_are_a_readable_error(play: Play) -> None:
    with pytest.raises(ValueError, match="checkpoint: not a state of this harness"):
        play(restored=b"nonsense")


def test_a_checkpoint_holds_all_that_changed(play: Play) -> None:
    state = checkpoint.load_bytes(play("method=local_only", "scheduler.cohort_size=2").state)
    assert set(state) == {"method", "scheduler", "now", "totals", "versions", "retired", "flights"}
    assert state["now"] > 0
    assert set(state["totals"]) == set(COSTS)
    assert state["versions"]
    assert all(int(version) in range(3) for version in state["versions"].values())


# --- when to evaluate, when to stop


def test_evaluation_every_so_often_and_after_the_last_round(play: Play) -> None:
    played = play("run.num_rounds=5", "run.eval_every=2")
    assert ["eval/accuracy" in r for r in played.records] == [False, True, False, True, True]
    everything = play("run.num_rounds=5")
    assert played.records[-1]["eval/loss"] == everything.records[-1]["eval/loss"]


def test_the_target_ends_the_run(play: Play) -> None:
    played = play("run.num_rounds=50", "run.target=0.9", "run.checkpoint_every=100", "method.lr=0.01")
    assert [c.done for c in played.commits] == [False] * (len(played.commits) - 1) + [True]
    assert 1 < len(played.commits) < 50
    assert played.records[-1]["val/accuracy"] >= 0.9
    assert played.records[-2]["val/accuracy"] < 0.9
    assert played.commits[-1].checkpoint is not None


def test_timings_are_kept_out_of_the_record(play: Play) -> None:
    commit = play("run.num_rounds=1").commits[0]
    assert set(commit.timings) == {
        "round",
        "time/wall_s",
        "retries",
        "time/train_wall_s",
        "time/eval_wall_s",
        "energy/cpu_s",
    }
    assert not set(commit.record) & (set(commit.timings) - {"round"})


def test_batteries_pay_for_training_and_waiting_and_not_for_evaluation(play: Play) -> None:
    played = play("method=local_only", "fleet.profiles={phone: 1}")
    train = played.ledger.query("phase == 'train' and client >= 0")
    spent = train.groupby("client")[["compute_j", "link_j", "idle_j"]].sum().sum(axis=1)
    assert (played.ledger.query("phase == 'eval'")["link_j"] > 0).all()
    full = find_profile("phone", key="test").device.battery_j
    left = played.engine.scheduler.battery_j
    assert full - left == pytest.approx(spent.to_numpy(), rel=1e-5)


def test_devices_that_cost_nothing(play: Play) -> None:
    played = play("fleet.profiles={ideal: 1}", "fleet.server=ideal", "method=centralized")
    assert played.records[-1]["time/sim_s_total"] == 0
    assert played.records[-1]["cost/server_flops_total"] == 3 * 90 * 4 * PIXELS * CLASSES
