"""sweeps/wandb_sweep.yaml: the command lines that a W&B agent would build from it, one of them run."""

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from harness import loading
from harness.cli import app
from harness.run.driver import preflight
from harness.run.files import read_lines
from harness.run.method import method_config

ROOT = Path(__file__).parents[2]
SWEEP = yaml.safe_load((ROOT / "sweeps" / "wandb_sweep.yaml").read_text())


def choices(parameter: dict[str, Any]) -> list[Any]:
    """What W&B's server may send for a parameter: all values, or both ends."""
    if "value" in parameter:
        return [parameter["value"]]
    return list(parameter.get("values") or (parameter["min"], parameter["max"]))


def command_line(values: dict[str, Any]) -> list[str]:
    """As wandb.wandb_agent.Agent._command_run builds it."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    args = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    macros = args | {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [SWEEP["program"]]}
    built: list[str] = []
    for part in create_sweep_command(list(SWEEP["command"])):
        macro = part.startswith("${") and part.endswith("}")
        built += macros[part[2:-1]] if macro else [part]
    return built


@cache
def command_lines() -> list[list[str]]:
    """Of every choice of every parameter."""
    return [
        command_line(dict(zip(SWEEP["parameters"], values, strict=True)))
        for values in itertools.product(*map(choices, SWEEP["parameters"].values()))
    ]


def test_every_command_line_is_a_run_that_can_be() -> None:
    lines = command_lines()
    assert len(lines) == 2 * 2 * 2 * 3
    digests = set()
    for line in lines:
        assert line[:5] == ["/usr/bin/env", "python", "-m", "harness.cli", "run"]
        cfg = loading.load(line[5:], method_config=method_config)
        digests.add(cfg.digest)
    preflight(cfg)
    assert len(digests) == 2 * 2 * 3, "the seed is no part of it"
    assert cfg.run.resume, "an agent that is started again goes on"


def test_what_it_optimizes_is_a_key_that_runs_log(tmp_path: Path) -> None:
    """One of the lines, but smaller, without W&B, and in this process: a new one imports torch."""
    words = ["run.num_rounds=1", f"run.results_dir={tmp_path}", "log.wandb=disabled", "task.limit_train=100"]
    done = CliRunner().invoke(app, [*command_lines()[0][4:], *words, "runtime.transport=local"])
    assert done.exit_code == 0, done.output
    (folder,) = [path.parent for path in tmp_path.glob("*/summary.json")]
    assert SWEEP["metric"]["name"] in read_lines(folder / "rounds.jsonl")[0]
    assert SWEEP["metric"]["name"].startswith("val/"), "tuning never reads the test split"


def test_a_run_of_an_agent_joins_its_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B takes the id that its agent chose, whatever id the harness gives."""
    import wandb

    from harness.run.sinks.wandb import WandbSink

    monkeypatch.setenv("WANDB_SWEEP_ID", "abc123")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    words = [f"run.results_dir={tmp_path}", "log.wandb=offline", "task=synthetic", "method=fedavg"]
    cfg = loading.load(words, method_config=method_config)
    (tmp_path / cfg.run_id).mkdir()
    wandb.teardown()
    sink = WandbSink()
    sink.start(cfg, run_id=cfg.run_id, first_round=0)
    try:
        assert sink._run is not None
        assert (sink._run.id, sink._run.sweep_id) == ("chosen", "abc123")
    finally:
        sink.finish(None)
        wandb.teardown()
