import json
import math
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_maker import NUM_ROUNDS, PARTITION, SUMMARY, make_commit, make_config

from harness.config import Config, as_dict
from harness.run.sinks import WandbSink, sync
from harness.run.sinks.wandb import choose_mode
from harness.run.store import RunStore, run_folder

BLOCK = 32768


@pytest.fixture(autouse=True)
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def read_wandb(path: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2 as pb

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at < len(data):
        if BLOCK - at % BLOCK < 7:  # a header never crosses blocks
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = pb.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def the_file(folder: Path) -> Path:
    import wandb

    wandb.teardown()  # as at the exit: waits until the service has written everything
    (path,) = folder.rglob("*.wandb")
    return path


def history(path: Path) -> list[dict[str, Any]]:
    found = []
    for record in read_wandb(path):
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            assert record.history.step.num == items["round"]
            found.append({key: value for key, value in items.items() if not key.startswith("_")})
    return found


def run_message(path: Path) -> Any:
    return next(r.run for r in read_wandb(path) if r.WhichOneof("record_type") == "run")


def play(cfg: Config, rounds: range, *, finish: bool = False, **timeouts: float) -> None:
    """The driver's part: files first, then the sink."""
    sink = WandbSink(**timeouts)
    with RunStore.open(cfg, partition=PARTITION) as store:
        assert store.next_round == rounds.start
        sink.start(cfg, run_id=cfg.run_id, first_round=store.next_round)
        for round in rounds:
            commit = make_commit(round)
            store.commit(commit)
            sink.write(commit.record, commit.timings)
            sink.write(commit.record, commit.timings)  # played again after lost processes
        if finish:
            store.finish(SUMMARY)
    sink.finish(SUMMARY if finish else None)


def expected(num_rounds: int) -> list[dict[str, Any]]:
    commits = [make_commit(round) for round in range(num_rounds)]
    return [{**commit.record, "time/wall_s": commit.timings["time/wall_s"]} for commit in commits]


def test_an_offline_run_holds_exactly_the_records(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, "log.wandb=offline", "log.tags=[a,b]", "log.entity=lab", "log.job_type=sweep")
    play(cfg, range(NUM_ROUNDS), finish=True)
    folder = run_folder(cfg)
    path = the_file(folder)
    assert path.is_relative_to(folder / "wandb")
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert history(path) == expected(NUM_ROUNDS)
    assert [{k: v for k, v in line.items() if k != "time/wall_s"} for line in history(path)] == lines
    run = run_message(path)
    assert (run.run_id, run.display_name, run.entity, run.job_type) == (
        cfg.run_id,
        cfg.run_id,
        "lab",
        "sweep",
    )
    assert (run.project, run.run_group, list(run.tags)) == ("edge-fl-harness", "fedavg-digits", ["a", "b"])
    logged = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: logged[key] for key in as_dict(cfg)} == as_dict(cfg)
    metrics = [r.metric for r in read_wandb(path) if r.WhichOneof("record_type") == "metric"]
    assert {metric.glob_name: metric.step_metric for metric in metrics if metric.glob_name} == {
        f"{name}/*": "round"
        for name in ("eval", "val", "train", "cost", "time", "energy", "scheduler", "client")
    }


def test_a_resumed_run_and_its_rebuild_show_each_round_once(tmp_path: Path) -> None:
    play(make_config(tmp_path, "log.wandb=offline"), range(3))
    cfg = make_config(tmp_path, "log.wandb=offline", "run.resume=true")
    folder = run_folder(cfg)
    assert history(the_file(folder)) == expected(3)
    play(cfg, range(2, NUM_ROUNDS), finish=True)
    assert history(the_file(folder)) == expected(NUM_ROUNDS)
    (line,) = sync(tmp_path)
    assert line.startswith(f"{cfg.run_id}: {NUM_ROUNDS} rounds, `wandb sync ")
    assert history(the_file(folder)) == expected(NUM_ROUNDS)
    assert run_message(the_file(folder)).run_id == cfg.run_id
    assert f"`wandb sync {the_file(folder).parent}`" in line


def test_sync_takes_interrupted_runs_and_leaves_live_and_damaged_ones(tmp_path: Path) -> None:
    interrupted, live, damaged = (make_config(tmp_path, f"run.seed={seed}") for seed in range(3))
    for cfg in (interrupted, damaged):
        play(cfg, range(3))
    (run_folder(damaged) / "rounds.jsonl").write_text("not json\n")
    assert not list(tmp_path.rglob("*.wandb"))  # log.wandb is disabled by default
    with RunStore.open(live, partition=PARTITION):
        lines = {line.partition(":")[0]: line for line in sync(tmp_path)}
    assert history(the_file(tmp_path)) == expected(3)
    assert lines[interrupted.run_id].startswith(f"{interrupted.run_id}: 3 rounds")
    assert lines[live.run_id].endswith("left alone, it is running")
    assert "a line is not JSON" in lines[damaged.run_id]


def test_non_finite_values_arrive(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, "log.wandb=offline")
    run_folder(cfg).mkdir()
    sink = WandbSink()
    sink.start(cfg, run_id=cfg.run_id, first_round=0)
    sink.write({"round": 0, "train/loss": math.nan, "cost/link_j": math.inf}, {})
    sink.finish(None)
    (line,) = history(the_file(tmp_path))
    assert math.isnan(float(line["train/loss"]))
    assert float(line["cost/link_j"]) == math.inf


@pytest.mark.parametrize("answering", [True, False])
def test_w_and_b_out_of_reach_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answering: bool
) -> None:
    """Connections refused, and connections taken that never get an answer."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1] if answering else 1
        server.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        cfg = make_config(tmp_path, "log.wandb=auto")
        with pytest.warns(UserWarning, match=r"log\.wandb: online failed .*, logging offline; .*wandb-sync"):
            play(cfg, range(NUM_ROUNDS), finish=True, init_timeout_s=0.5)
    assert history(the_file(tmp_path)) == expected(NUM_ROUNDS)
    assert (run_folder(cfg) / "summary.json").exists()


def test_a_failing_run_object_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make_config(tmp_path, "log.wandb=offline")
    run_folder(cfg).mkdir()
    sink = WandbSink()
    sink.start(cfg, run_id=cfg.run_id, first_round=0)

    def broken(run: object, data: object, step: int) -> None:
        raise RuntimeError("service died\nstack")

    with monkeypatch.context() as patch:
        patch.setattr("wandb.Run.log", broken)
        with pytest.warns(UserWarning, match=r"W&B is given up \(service died\); the run's files hold"):
            sink.write({"round": 0}, {})
    sink.write({"round": 1}, {})
    sink.finish(SUMMARY)


def test_the_mode_follows_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (choose_mode("auto"), choose_mode("offline")) == ("offline", "offline")
    with pytest.warns(UserWarning, match="no key found"):
        assert choose_mode("online") == "offline"
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password key\n")
    assert choose_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080/path")
    assert (choose_mode("auto"), choose_mode("online"), choose_mode("offline")) == (
        "online",
        "online",
        "offline",
    )
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert (choose_mode("auto"), choose_mode("offline")) == ("online", "offline")
