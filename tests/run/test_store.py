import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from run_maker import NUM_ROUNDS, PARTITION, SUMMARY, make_commit, make_config, play, read_tree

from harness.config import Config, as_dict
from harness.run import files, store
from harness.run.checkpoint import load_bytes
from harness.run.ledger_files import read_ledger
from harness.run.store import RunStore, finished_summary, run_folder
from harness.types import ConfigError

KILLED = 9


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A fixed description instead of a git call at each of hundreds of starts."""
    described: dict[str, object] = {"packages": {"torch": "2.0"}}
    monkeypatch.setattr(store, "describe_environment", lambda cfg: described)
    return described


def in_child(action: Callable[[], None]) -> int:
    """Run `action` in a forked process; its exit status. A kill there is a real one: no `finally` runs."""
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def play_and_die(cfg: Config, point: int) -> int:
    """Play, killed before the `point`-th operation that changes a file; 0 if there are fewer."""

    def action() -> None:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1
            if count == point:
                os._exit(KILLED)

        def audit(event: str, args: tuple[object, ...]) -> None:
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if (event == "open" and isinstance(args[2], int) and args[2] & writes) or event in (
                "os.rename",
                "os.remove",
                "os.mkdir",
                "os.rmdir",
                "os.truncate",
            ):
                tick()

        def fsync(handle: int) -> None:
            tick()

        def append(log: files.LineLog, row: dict[str, float]) -> None:
            line = (json.dumps(row) + "\n").encode()
            for part in (line[: len(line) // 2], line[len(line) // 2 :]):
                tick()
                log._file.write(part)
                log._file.flush()

        sys.addaudithook(audit)
        os.fsync = fsync  # type: ignore[assignment]
        files.LineLog.append = append  # type: ignore[method-assign,assignment]
        play(cfg)

    return in_child(action)


def test_the_files_of_a_finished_run(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    assert finished_summary(cfg) is None
    play(cfg)
    folder = run_folder(cfg)
    assert sorted(read_tree(folder)) == [
        "checkpoint.prev/state.pt",
        "checkpoint/state.pt",
        "config.yaml",
        "env.json",
        "ledger/000000-000004.parquet",
        "partition.json",
        "rounds.jsonl",
        "summary.json",
        "timings.jsonl",
    ]
    assert yaml.safe_load((folder / "config.yaml").read_text()) == as_dict(cfg)
    assert json.loads((folder / "partition.json").read_text()) == PARTITION
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [make_commit(r).record for r in range(NUM_ROUNDS)]
    assert lines[1].startswith('{"round": 1, "eval/accuracy": 0.3333333333333333, "train/loss": 1.0, ')
    wall = [json.loads(line)["time/wall_s"] for line in (folder / "timings.jsonl").read_text().splitlines()]
    assert wall == [0.5, 1.5, 2.5, 3.5, 4.5]
    whole = pd.concat([make_commit(r).ledger for r in range(NUM_ROUNDS)], ignore_index=True)
    pd.testing.assert_frame_equal(
        read_ledger(folder / "ledger"), whole.astype(make_commit(0).ledger.dtypes.map(str))
    )
    assert finished_summary(cfg) == SUMMARY
    assert finished_summary(make_config(tmp_path, "run.force=true")) is None


def test_a_commit_is_on_disk_before_it_returns(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    with RunStore.open(cfg, partition=PARTITION) as run:
        for round in range(3):
            run.commit(make_commit(round))
            assert len((run.folder / "rounds.jsonl").read_bytes().splitlines()) == round + 1
        assert sorted(path.name for path in (run.folder / "ledger").iterdir()) == ["000000-000001.parquet"]
        assert (
            [line["round"] for line in run.records()]
            == [line["round"] for line in run.timings()]
            == [0, 1, 2]
        )
        with pytest.raises(ValueError, match="round 4 committed where round 3 is due"):
            run.commit(make_commit(4))


@pytest.mark.parametrize(("first_point", "step"), [(None, 1), (40, 7), (75, 7)])
def test_killed_at_any_point_and_resumed_the_files_are_those_of_an_undisturbed_run(
    tmp_path: Path, first_point: int | None, step: int
) -> None:
    """Killed once at every operation; and, after a kill at `first_point`, again at every seventh."""
    cfg = make_config(tmp_path, "run.resume=true")
    folder = run_folder(cfg)
    play(cfg)
    whole = read_tree(folder)
    reached: set[int] = set()
    for point in range(1, 1000, step):
        shutil.rmtree(folder)
        if first_point is not None:
            assert play_and_die(cfg, first_point) == KILLED
        if play_and_die(cfg, point) == 0:
            break
        reached.add(len(files.read_lines(folder / "rounds.jsonl")))
        if finished_summary(cfg) is None:
            play(cfg)
        (folder / "lock").unlink(missing_ok=True)  # of a kill between the summary and the release
        assert read_tree(folder) == whole, f"killed before operation {point}"
    assert point > 30
    assert reached == set(range(NUM_ROUNDS + 1)) if first_point is None else NUM_ROUNDS in reached


def test_a_real_kill_in_the_middle(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, "run.resume=true")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with RunStore.open(cfg, partition=PARTITION) as run:
            for round in range(4):
                run.commit(make_commit(round))
            os.write(writing, b"4 rounds")
            signal.pause()
        os._exit(1)
    assert os.read(reading, 8) == b"4 rounds"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (run_folder(cfg) / "lock").exists()
    with RunStore.open(cfg, partition=PARTITION) as run:
        assert run.next_round == 4
        assert run.restored is not None
        assert load_bytes(run.restored)["weights"].tolist() == [3.0, 3.0, 3.0]


def test_an_interrupted_run_asks_what_to_do(tmp_path: Path) -> None:
    play(make_config(tmp_path), until=3)
    folder = run_folder(make_config(tmp_path))
    before = read_tree(folder)
    with pytest.raises(ConfigError, match=r"interrupted; use run\.resume=true .* run\.force=true"):
        RunStore.open(make_config(tmp_path), partition=PARTITION)
    with pytest.raises(ConfigError, match="set one of them"):
        RunStore.open(make_config(tmp_path, "run.resume=true", "run.force=true"), partition=PARTITION)
    assert read_tree(folder) == before
    with RunStore.open(make_config(tmp_path, "run.force=true"), partition=PARTITION) as run:
        assert (run.next_round, run.restored, run.records()) == (0, None, [])
        assert not (folder / "checkpoint").exists()


def test_a_finished_run_is_replaced_only_by_force_and_only_at_the_start(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    play(cfg)
    before = read_tree(run_folder(cfg))
    for words in ([], ["run.resume=true"]):
        with pytest.raises(ConfigError, match=r"finished; use run\.force=true"):
            RunStore.open(make_config(tmp_path, *words), partition=PARTITION)
    assert finished_summary(make_config(tmp_path, "run.force=true")) is None
    assert read_tree(run_folder(cfg)) == before
    with RunStore.open(make_config(tmp_path, "run.force=true"), partition=PARTITION) as run:
        assert sorted(read_tree(run.folder)) == [
            "config.yaml",
            "env.json",
            "lock",
            "partition.json",
            "rounds.jsonl",
            "timings.jsonl",
        ]


def test_a_run_that_died_before_its_first_round_just_starts(tmp_path: Path) -> None:
    RunStore.open(make_config(tmp_path), partition=PARTITION).close()
    play(make_config(tmp_path))
    assert finished_summary(make_config(tmp_path)) == SUMMARY


def test_resuming_clears_away_files_that_a_kill_left_half_written(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, "run.resume=true")
    play(cfg, until=3)
    left = [".summary.json.tmp", "ledger/.000002-000009.parquet.tmp", "checkpoint/.next.tmp"]
    for name in left:
        (run_folder(cfg) / name).write_bytes(b"half")
    play(cfg, until=3)
    assert [name for name in left if (run_folder(cfg) / name).exists()] == []


def test_a_second_process_is_told_who_works_there(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    with (
        RunStore.open(cfg, partition=PARTITION) as run,
        pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on "),
    ):
        RunStore.open(make_config(tmp_path, "run.force=true"), partition=PARTITION)
    assert not (run.folder / "lock").exists()


def test_a_failed_start_releases_the_lock(tmp_path: Path) -> None:
    play(make_config(tmp_path), until=3)
    with pytest.raises(ConfigError, match="held other examples"):
        RunStore.open(make_config(tmp_path, "run.resume=true"), partition={"sizes": [4, 3]})
    play(make_config(tmp_path, "run.resume=true"))


def test_resuming_elsewhere_warns(tmp_path: Path, environment: dict[str, object]) -> None:
    play(make_config(tmp_path), until=3)
    environment["packages"] = {"torch": "2.1"}
    with pytest.warns(UserWarning, match=r"another environment \(packages\)"):
        play(make_config(tmp_path, "run.resume=true"))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    play(make_config(tmp_path / "whole"))
    cfg = make_config(tmp_path, "run.resume=true")
    play(cfg, until=4)
    folder = run_folder(cfg)
    with (folder / "checkpoint/state.pt").open("r+b") as handle:
        handle.truncate(300)
    with pytest.warns(UserWarning, match=r"checkpoint/state\.pt: damaged .*checkpoint\.prev.*round 2"):
        play(cfg)
    whole = read_tree(run_folder(make_config(tmp_path / "whole")))
    found = read_tree(folder)
    assert {name: found[name] for name in whole if "parquet" in name or "jsonl" in name} == {
        name: whole[name] for name in whole if "parquet" in name or "jsonl" in name
    }


def test_records_lost_behind_a_checkpoint_are_told(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, "run.resume=true")
    play(cfg, until=4)
    path = run_folder(cfg) / "rounds.jsonl"
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:2]) + b"\n")
    with pytest.raises(ConfigError, match=r"rounds\.jsonl: damaged: the checkpoint builds on rounds 0 to 3"):
        play(cfg)


def test_rewind_goes_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    play(make_config(tmp_path / "whole"))
    cfg = make_config(tmp_path)
    with RunStore.open(cfg, partition=PARTITION) as run:
        run.commit(make_commit(0))
        run.rewind()
        assert (run.next_round, run.restored, run.records()) == (0, None, [])
        for round in range(NUM_ROUNDS):
            run.commit(make_commit(round))
        run.rewind()
        assert run.next_round == 4
        assert run.restored == make_commit(3).checkpoint
        run.commit(make_commit(4))
        run.finish(SUMMARY)
    whole, found = read_tree(run_folder(make_config(tmp_path / "whole"))), read_tree(run_folder(cfg))
    assert whole.pop("config.yaml") != found.pop("config.yaml")  # they name their results_dir
    assert found == whole


def test_a_process_that_lost_its_lock_writes_nothing(tmp_path: Path) -> None:
    with RunStore.open(make_config(tmp_path), partition=PARTITION) as run:
        run.commit(make_commit(0))
        (run.folder / "lock").unlink()
        with pytest.raises(ConfigError, match="was taken over"):
            run.commit(make_commit(1))
        assert len(run.records()) == 1
