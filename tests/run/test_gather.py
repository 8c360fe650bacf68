"""Runs copied to storage and back, as files that equal the first ones."""

from pathlib import Path

import fsspec
import pytest
from run_maker import NUM_ROUNDS, PARTITION, SUMMARY, make_commit, make_config

from harness.run.gather import gather
from harness.run.store import RunStore, run_folder
from harness.types import ConfigError


def write_run(results: Path, *, seed: int, rounds: int) -> Path:
    cfg = make_config(results, f"run.seed={seed}")
    with RunStore.open(cfg, partition=PARTITION) as store:
        for round in range(rounds):
            store.commit(make_commit(round))
        if rounds == NUM_ROUNDS:
            store.finish(SUMMARY)
    return run_folder(cfg)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_runs_survive_the_way_there_and_back(kind: str, tmp_path: Path) -> None:
    done = write_run(tmp_path / "results", seed=0, rounds=NUM_ROUNDS)
    begun = write_run(tmp_path / "results", seed=1, rounds=3)
    store = "memory://shared/runs" if kind == "memory" else f"file://{tmp_path}/shared"
    lines: list[str] = []
    assert gather(str(tmp_path / "results"), store, say=lines.append) == 2
    assert gather(store, str(tmp_path / "back"), say=lines.append) == 2
    for run in (done, begun):
        assert files(tmp_path / "back" / run.name) == files(run)
        assert not (tmp_path / "back" / run.name / "lock").exists()
    # Again: the finished run is left alone, the other may have grown.
    lines.clear()
    assert gather(str(tmp_path / "results"), store, say=lines.append) == 1
    assert lines == [f"{done.name}: there already", f"{begun.name}: copied"]


def test_a_run_is_finished_there_only_once_all_of_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "results", seed=0, rounds=NUM_ROUNDS)
    opened: list[str] = []
    local = type(fsspec.filesystem("file"))
    first = local.open

    def listen(self: object, path: str, mode: str = "rb", **words: object) -> object:
        if mode == "wb":
            opened.append(path.removeprefix(str(tmp_path)))
        return first(self, path, mode, **words)

    monkeypatch.setattr(local, "open", listen)
    gather(str(tmp_path / "results"), f"file://{tmp_path}/shared", say=lambda line: None)
    assert opened[-1] == f"/shared/{run.name}/summary.json"
    assert len(opened) == len(files(run))


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no runs"):
        gather(str(tmp_path), "memory://x", say=print)
    write_run(tmp_path, seed=0, rounds=1)
    with pytest.raises(ConfigError, match=r"gather: nothing://x: Protocol not known: nothing"):
        gather(str(tmp_path), "nothing://x", say=print)
