"""Whatever dies meanwhile, the outcome equals the undisturbed run to the last bit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY, Play, assert_same

from harness import loading
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
        cfg = loading.load([*words, f"run.results_dir={results}"], method_config=method_config)
        execute(cfg, runtime=runtime)
        assert tomb.exists()
        folders[name] = results / cfg.run_id
    assert rounds(folders["ray"]) == rounds(folders["local"])
    ledgers = [pd.read_parquet(folder / "ledger") for folder in folders.values()]
    pd.testing.assert_frame_equal(*ledgers, check_exact=True, check_categorical=False)


DRIVER = """
import os, signal, sys
from harness import loading
from harness.run.driver import execute
from harness.run.method import method_config
from ray_actors.launch import RayRuntime

class Killer:
    def start(self, cfg, *, run_id, first_round): pass
    def write(self, record, timings):
        if record["round"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    def finish(self, summary): pass

execute(loading.load(sys.argv[1:], method_config=method_config), runtime=RayRuntime(), sinks=[Killer()])
"""


@pytest.mark.parametrize("method", ["fedavg", "local_only"])
def test_a_killed_driver_is_resumed_to_the_same_bits(
    method: str, ray_runtime: RayRuntime, tmp_path: Path
) -> None:
    words = [*TINY, f"method={method}", "method.momentum=0.9"]
    killed = [*words, f"run.results_dir={tmp_path / 'ray'}", "runtime.min_actors=1"]
    done = subprocess.run([sys.executable, "-c", DRIVER, *killed], check=False)
    assert done.returncode == -signal.SIGKILL
    folders = []
    for extra, runtime in (
        ([*killed, "run.resume=true"], ray_runtime),
        ([*words, f"run.results_dir={tmp_path / 'local'}"], LocalRuntime()),
    ):
        cfg = loading.load(extra, method_config=method_config)
        execute(cfg, runtime=runtime)
        folders.append(Path(cfg.run.results_dir) / cfg.run_id)
    assert rounds(folders[0]) == rounds(folders[1])
    ledgers = [pd.read_parquet(folder / "ledger") for folder in folders]
    pd.testing.assert_frame_equal(*ledgers, check_exact=True, check_categorical=False)


def rounds(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
