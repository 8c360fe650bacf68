"""MFL: FedAvg as its full-width case, equal coverage, plans that cost what they said, failures, batteries."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_run import Play, Played, make_config, make_place, start

from harness.data.tasks import load_task
from harness.methods.mfl import MFL, default_structures
from harness.run import checkpoint
from harness.run.describe import describe
from harness.scheduling.plan import RoundPlan
from harness.scheduling.problem import Problem
from harness.scheduling.scheduler import Scheduler
from harness.types import ConfigError

BASE = (
    "method=mfl",
    "model=mfl_cnn",
    "partition=iid",
    "partition.num_clients=8",
    "fleet.profiles={mfl_node: 1}",
    "fleet.link.model=shannon",
    "fleet.clock_hz=[1.5e9, 2.5e9]",
    "scheduler=fixed_mix",
)
MIXED = (*BASE, "scheduler.mix={L: 2, M: 2, S: 2, T: 2}")
FEDAVG = ("method.lr=0.05", "method.lr_decay=0.996", "model=mfl_cnn", "fleet.profiles={mfl_node: 1}")


def weights(played: Played) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load_bytes(played.state)["method"]["weights"])


# --- FedAvg is the full-width case


@pytest.mark.parametrize("failing", [0.0, 0.4])
def test_everyone_on_the_whole_network_is_fedavg_to_the_last_bit(play: Play, failing: float) -> None:
    words = [*FEDAVG, f"scheduler.failure_probability={failing}", "scheduler.cohort_size=3"]
    one = play("method=fedavg", "scheduler=fixed_mix", "scheduler.mix={full: 1}", *words)
    two = play("method=mfl", "scheduler=fixed_mix", "scheduler.mix={L: 1}", *words)
    assert all(torch.equal(weights(one)[n], weights(two)[n]) for n in weights(one))
    shared = [k for k in one.records[0] if not k.startswith("scheduler/share/")]
    assert [{k: r[k] for k in shared} for r in one.records] == [
        {k: r[k] for k in shared} for r in two.records
    ]


def test_uniform_gives_everyone_the_whole_network(play: Play) -> None:
    one, two = (play(f"method={m}", *FEDAVG, "run.num_rounds=2") for m in ("fedavg", "heterofl"))
    assert all(torch.equal(weights(one)[n], weights(two)[n]) for n in weights(one))


# --- rounds


def plans_of(words: tuple[str, ...], rounds: int) -> list[RoundPlan]:
    """What the scheduler says, round after round, to a method that trains as told."""
    cfg = make_config(words)
    scheduler = Scheduler(cfg, np.full(cfg.partition.num_clients, 10))
    submodels = MFL(cfg.method, make_place(*words, task=load_task(cfg.task))).submodels()
    plans = []
    for round in range(rounds):
        plans.append(scheduler.plan(round, submodels))
        scheduler.observe(np.arange(0), np.zeros(0), seconds=1.0)
    return plans


def test_instances_rotate_by_rank_and_round() -> None:
    """Instance (rank among the clients of the structure + k) mod Q, where nobody is ever left out."""
    plans = plans_of(MIXED, rounds=9)
    for k, plan in enumerate(plans):
        for submodel, q in (("L", 1), ("M", 2), ("S", 4), ("T", 8)):
            holders = [c for c in plan if plan[c].submodel == submodel]
            found = [plan[c].instance for c in holders]
            assert found == [f"{submodel}.{(rank + k) % q}" for rank in range(len(holders))]


@settings(max_examples=8)
@given(st.integers(1, 8), st.integers(0, 99))
def test_after_q_trainings_a_client_has_trained_every_block_equally_often(cohort: int, seed: int) -> None:
    """Cohorts are drawn and submodels dealt out by lot: clients are left out and change submodel."""
    words = (*BASE, "scheduler=random_mix", f"scheduler.cohort_size={cohort}", f"seed={seed}")
    seen: dict[tuple[int, str], list[str]] = {}
    for plan in plans_of(words, rounds=30):
        for client in plan:
            seen.setdefault((client, plan[client].submodel), []).append(plan[client].instance)
    for (_, submodel), instances in seen.items():
        q = {"L": 1, "M": 2, "S": 4, "T": 8}[submodel]
        for done in range(1, len(instances) + 1):
            counts = Counter(instances[:done]).values()
            assert max(counts) <= -(-done // q)
            assert len(counts) == min(done, q)


def test_nested_widths_never_rotate(play: Play) -> None:
    nested = play(*MIXED, "method=heterofl", "run.num_rounds=2")
    assert {p.num_instances for p in nested.engine.submodels.values()} == {1}
    mfl = play(*MIXED, "run.num_rounds=2")
    priced = ["cost/client_flops", "cost/tx_bytes", "cost/compute_j", "time/sim_s"]
    assert [[r[k] for k in priced] for r in nested.records] == [[r[k] for k in priced] for r in mfl.records]
    assert any(not torch.equal(weights(nested)[n], weights(mfl)[n]) for n in weights(mfl))


def test_blocks_that_nobody_trains_stay_as_they_are(play: Play) -> None:
    """Nested narrow networks alone: only the leading block of the second layer moves."""
    words = ("scheduler.mix={M: 8}", "method=heterofl", "run.num_rounds=1")
    played = play(*BASE, *words)
    before, after = start(played.job).method.state_dict()["weights"], weights(played)
    moved = (before["network.2.weight"] != after["network.2.weight"]).flatten(1).any(dim=1)
    assert moved.tolist() == [True] * 16 + [False] * 16
    assert (before["network.5.weight"] != after["network.5.weight"]).any(dim=(0, 2, 3)).tolist() == (
        [True] * 16 + [False] * 16
    )


# --- what was planned is what is charged


@pytest.mark.parametrize(
    "words",
    [
        ("scheduler.power_budget_w=2",),
        ("scheduler.power_budget_w=50", "method.local_epochs=2"),
        ("scheduler=energy_budget", "scheduler.power_budget_w=1", "method.local_steps=3"),
        ("scheduler=random_mix", "fleet.link.model=lte", "scheduler.power_budget_w=3"),
        ("fleet.profiles={phone: 1, laptop: 1}", "fleet.link.model=profile", "fleet.clock_hz=[]"),
        ("scheduler.power_budget_w=2", "compression=topk", "compression.fraction=0.1"),
        ("scheduler.power_budget_w=2", "compression=rpn", "compression.top_fraction=0.5"),
    ],
    ids=["fixed", "caps", "search", "lte", "no budget, idle power", "few of the changes", "pooled"],
)
def test_the_ledger_says_what_the_plan_said_to_the_last_bit(play: Play, words: tuple[str, ...]) -> None:
    played = play(*MIXED, *words, "run.num_rounds=2")
    cfg, sizes = played.job.cfg, played.job.partition.sizes
    scheduler = Scheduler(cfg, sizes)
    submodels = played.engine.submodels
    for round, record in enumerate(played.records):
        plan = scheduler.plan(round, submodels)
        states = scheduler.states(0.0)
        problem = Problem(states, submodels, plan.clients)
        names = [kind.name for kind in problem.kinds]
        kind = np.array([names.index(plan[c].submodel) for c in plan])
        cost, joules, seconds = problem.predict(kind, plan.points)
        train = played.ledger.query(f"phase == 'train' and round == {round} and client >= 0")
        fit = train[train["endpoint"] == "fit"].sort_values("client")
        for name in ("compute_s", "link_s", "compute_j", "link_j"):
            assert fit[name].tolist() == np.asarray(getattr(cost, name)).tolist()
        assert record["time/sim_s"] == seconds
        waits = train[train["endpoint"] == "wait"].groupby("client")["idle_j"].sum()
        idle = waits.reindex(range(8), fill_value=0.0).to_numpy()
        assert (fit["compute_j"].to_numpy() + fit["link_j"].to_numpy() + idle).tolist() == joules.tolist()
        budget = cfg.scheduler.power_budget_w
        assert budget is None or joules.sum() / seconds <= budget
        scheduler.observe(plan.clients, joules, seconds=seconds)


def test_failures_are_computed_and_paid_for_and_not_aggregated(play: Play) -> None:
    calm, rough = (
        play(*MIXED, "scheduler.power_budget_w=2", f"scheduler.failure_probability={p}", "run.num_rounds=2")
        for p in (0.0, 0.5)
    )
    failed = rough.ledger.query("status == 'failed'")
    assert 0 < len(failed) < 16
    costs = [k for k in calm.records[0] if k.startswith(("cost/", "time/"))]
    assert [{k: r[k] for k in costs} for r in calm.records] == [
        {k: r[k] for k in costs} for r in rough.records
    ]
    assert any(not torch.equal(weights(calm)[n], weights(rough)[n]) for n in weights(calm))
    none = play(*MIXED, "scheduler.failure_probability=1", "run.num_rounds=1")
    before = start(none.job).method.state_dict()["weights"]
    assert all(torch.equal(weights(none)[n], before[n]) for n in before)


# --- batteries and memory


def test_draining_a_battery_changes_the_next_plan(play: Play, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Client 0 carries two rounds of the largest submodel, then smaller ones, then none."""
    whole = play(*BASE, "scheduler.mix={L: 8}", "run.num_rounds=1")
    spent = whole.ledger.query("client == 0 and phase == 'train'")[["compute_j", "link_j"]].sum().sum()
    table = tmp_path / "fleet.csv"
    table.write_text("battery_j\n" + f"{2.6 * spent}\n" + "inf\n" * 7)
    played = play(*BASE, "scheduler.mix={L: 8}", "run.num_rounds=5", f"fleet.table={table}")
    fits = played.ledger.query("client == 0 and endpoint == 'fit'")
    got = dict(zip(fits["round"], fits["submodel"], strict=True))
    assert got[0] == got[1] == "L"
    assert got[2] in ("M", "S", "T")
    assert set(got) < set(range(5))
    last = played.records[-1]
    assert (last["scheduler/skipped"], last["scheduler/skipped/battery"]) == (1, 1)
    assert played.records[0]["scheduler/skipped"] == 0


def test_memory_decides_what_a_client_carries(play: Play, tmp_path) -> None:  # type: ignore[no-untyped-def]
    submodels = play(*MIXED, "run.num_rounds=1").engine.submodels
    held = {name: profile.train_bytes for name, profile in submodels.items()}
    assert held["L"] > held["M"] > held["S"] > held["T"] > 0
    table = tmp_path / "fleet.csv"
    table.write_text(
        "memory_bytes\n" + "".join(f"{m}\n" for m in (held["M"], held["T"], held["T"] - 1)) + "inf\n" * 5
    )
    played = play(*BASE, "scheduler.mix={L: 8}", "run.num_rounds=1", f"fleet.table={table}")
    fits = played.ledger[played.ledger["endpoint"] == "fit"]
    got = dict(zip(fits["client"], fits["submodel"], strict=True))
    assert got == {0: "M", 1: "T", **dict.fromkeys(range(3, 8), "L")}
    assert played.records[0]["scheduler/skipped/memory"] == 1


def test_a_federation_without_charge_goes_on_without_training(play: Play, tmp_path) -> None:  # type: ignore[no-untyped-def]
    table = tmp_path / "fleet.csv"
    table.write_text("battery_j\n" + "0\n" * 8)
    played = play(*MIXED, "run.num_rounds=2", f"fleet.table={table}", "scheduler.power_budget_w=1")
    assert [r["scheduler/skipped/battery"] for r in played.records] == [8, 8]
    assert played.records[-1]["cost/client_flops_total"] == 0


def test_a_run_goes_on_from_a_checkpoint_with_its_counts_and_batteries(play: Play) -> None:
    words = (*MIXED, "fleet.profiles={phone: 1}", "scheduler=random_mix", "run.num_rounds=4")
    whole = play(*words)
    rest = play(*words, restored=whole.commits[1].checkpoint, first=2)
    assert rest.records == whole.records[2:]
    assert rest.state == whole.state


# --- said and refused


def test_describe_shows_every_structure() -> None:
    found = describe(make_config(["method=mfl", "task=mnist", "model=mfl_cnn"], base=()))
    assert {m["name"]: m["params"] for m in found["models"]} == {"L": 16938, "M": 10010, "S": 6250, "T": 5018}
    assert {e["submodel"]: e["tx_bytes"] for e in found["exchanges"]} == {
        "L": 4 * 16938,
        "M": 4 * 10010,
        "S": 4 * 6250,
        "T": 4 * 5018,
    }


def test_default_structures() -> None:
    assert default_structures([2, 2, 2, 1]) == {
        "L": (1, 1, 1, 1),
        "M": (1, 2, 1, 1),
        "S": (1, 2, 2, 1),
        "T": (2, 2, 2, 1),
    }
    assert default_structures([2, 4, 1]) == {"L": (1, 1, 1), "M": (1, 4, 1), "T": (2, 4, 1)}
    assert default_structures([1]) == {"L": (1,)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.factors=[3,2,2,1]"], r"method\.factors: .* 3 does not divide the 16 channels"),
        (["method.factors=[2,2,1]"], r"method\.factors: .* has 3 factors, the network 4 layers"),
        (["method.factors=[2,2,2,2]"], r"method\.factors: .* last layer are never cut"),
        (
            ["method.structures={X: [1,4,1,1]}"],
            r"method\.structures: structure X: a factor must be 1 or 2, got 4",
        ),
        (["method.structures={X.1: [1,2,1,1]}"], r"must not hold a dot"),
    ],
)
def test_cuts_that_do_not_fit_are_one_line(words: list[str], message: str) -> None:
    cfg = make_config(["method=mfl", "model=mfl_cnn", *words])
    with pytest.raises(ConfigError, match=message) as error:
        MFL(cfg.method, make_place("method=mfl", "model=mfl_cnn", task=load_task(cfg.task)))
    assert "\n" not in str(error.value)


def test_own_structures_on_a_residual_network(play: Play) -> None:
    words = (
        "model=resnet4",
        "method.structures={big: [1,1,1], thin: [2,2,1]}",
        "scheduler.mix={big: 4, thin: 4}",
    )
    played = play(*BASE, *words, "run.num_rounds=2")
    assert {n: p.num_instances for n, p in played.engine.submodels.items()} == {"big": 1, "thin": 4}
    before, after = start(played.job).method.state_dict()["weights"], weights(played)
    assert set(after) > {"network.stem.bn.running_mean"}
    assert all((before[n] != after[n]).any() and after[n].isfinite().all() for n in after)
