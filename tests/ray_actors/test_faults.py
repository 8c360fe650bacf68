"""Whatever dies meanwhile, the outcome equals the undisturbed run to the last bit."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY, Play, assert_same

from harness import config
from harness.run.driver import execute
from harness.run.method import method_config
from harness.run.runtime import LocalRuntime
from ray_actors.launch import RayRuntime

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("method", ["mortal:Mortal", "mortal:MortalLone"])
def test_a_client_actor_killed_in_mid_round_changes_no_bit(
    method: str, play: Play, ray_runtime: RayRuntime, tmp_path: Path
) -> None:
    tomb = tmp_path / "tomb"
    words = [f"method={method}", f"method.tomb={tomb}", "runtime.min_actors=2"]
    disturbed = play(words, runtime=ray_runtime)
    assert tomb.exists()
    assert sum(commit.timings["retries"] for commit in disturbed) == 1
    assert_same(play(words), disturbed)


def test_a_killed_server_continues_from_the_last_checkpoint(
    ray_runtime: RayRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    tomb = tmp_path / "tomb"
    words = [
        *TINY,
        "method=mortal:Mortal",
        f"method.tomb={tomb}",
        "method.victim=server",
        "run.checkpoint_every=2",
    ]
    folders = {}
    for name, runtime in (("ray", ray_runtime), ("local", LocalRuntime())):
        results = tmp_path / name
        cfg = config.load([*words, f"run.results_dir={results}"], method_config=method_config)
        execute(cfg, runtime=runtime)
        assert tomb.exists()
        folders[name] = results / cfg.run_id
    assert rounds(folders["ray"]) == rounds(folders["local"])
    ledgers = [pd.read_parquet(folder / "ledger") for folder in folders.values()]
    pd.testing.assert_frame_equal(*ledgers, check_exact=True, check_categorical=False)


def rounds(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
