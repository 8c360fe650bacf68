"""What W&B would be asked to create, as its own JSON, and what keeps it from being asked."""

import json
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.cli import main
from harness.report import dashboard, load
from harness.run.sinks.wandb import AXES
from harness.types import ConfigError

# W&B takes seconds to import, and each of pytest-xdist's processes would, to find the tests.
pytestmark = pytest.mark.skipif(
    find_spec("wandb_workspaces") is None, reason="wandb_workspaces is not installed"
)


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def refuse(*words: object) -> None:
        raise AssertionError(f"asked for the network: {words}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def logged(write_run):
    """Two variants of FedAvg (one with two seeds) and local training, logged as project p of lab."""
    log = {"log": {"project": "p", "entity": "lab"}}
    write_run("fedavg", config=log | {"method": {"local_epochs": 1}})
    write_run("fedavg", seed=1, config=log | {"method": {"local_epochs": 1}})
    write_run("fedavg", digest="bbbbbbbb", config=log | {"method": {"local_epochs": 5}})
    return write_run("local", digest="cccccccc", scale=0, config=log).parent


def test_every_cost_has_a_panel_in_both_and_seeds_are_joined(logged):
    comparison = dashboard.describe(load(logged, ledger=False), [], project=None, entity=None)
    assert (comparison.project, comparison.entity) == ("p", "lab")
    assert comparison.group_by == ["method.name", "method.local_epochs"]
    views = dashboard.as_json(comparison)
    view = views["workspace"]
    assert (view["project"], view["entity"]) == ("p", "lab")
    (section,) = view["spec"]["section"]["panelBankConfig"]["sections"]
    (grid,) = [block for block in views["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    for panels in (section["panels"], grid["metadata"]["panelBankSectionConfig"]["panels"]):
        lines = {p["config"]["xAxis"]: p["config"]["metrics"] for p in panels if "Line" in p["viewType"]}
        assert lines == {axis: ["eval/accuracy"] for axis in ("round", *AXES)}
        ends = {p["config"]["xAxis"]: p["config"]["yAxis"] for p in panels if "Scatter" in p["viewType"]}
        assert ends == {f"summary:{axis}": "summary:eval/accuracy" for axis in AXES}
    (runs,) = grid["metadata"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["method.value.name", "method.value.local_epochs"]
    assert runs["filters"]["filters"][0]["key"] == {"section": "config", "name": "task.value.name"}
    assert runs["filters"]["filters"][0]["value"] == "digits"
    assert "config:run.value.seed" in runs["runFeed"]["columnOrder"]
    # W&B resolves runs without a project as those of the report's own.
    assert "project" not in runs


def test_comparison_and_claims_stand_in_the_report(logged, monkeypatch, tmp_path):
    """Through the command, with a claim that these runs speak of and one that they do not."""
    sweeps = tmp_path / "sweeps" / "paper"
    sweeps.mkdir(parents=True)
    (sweeps / "s.yaml").write_text("base: {task: digits}\ngrid: {run.seed: [0]}\nscales: {smoke: {}}\n")
    claim = "{id: %s, source: here, claim: 'a|b', kind: measured, sweep: s.yaml, runs: {}, "
    claim += "statistic: best, expected: '> 0'}"
    (sweeps / "claims.yaml").write_text(f"paper: P\nclaims:\n  - {claim % 'unrun'}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", "dashboard", str(logged), "--out", "views.json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    views = json.loads(Path("views.json").read_text())
    texts = [b["content"] for b in views["report"]["spec"]["blocks"] if b["type"] == "markdown-block"]
    assert len(texts) == 1  # no claim was measured by these runs
    assert texts[0].startswith("## digits\n")
    assert "| fedavg (local_epochs=5) |" in texts[0]


def test_claims_that_were_judged_are_a_table():
    from harness.report.claims import audit, load_claims

    (claim,) = [c for c in load_claims("fedavg", folder=Path(__file__).parents[2] / "sweeps") if c.value][:1]
    (verdict,) = audit([claim], results=Path("nowhere"))
    lines = dashboard.claims_table([verdict]).splitlines()
    assert lines[0] == "| claim | expected | found | verdict |"
    assert len(lines) == 3
    assert lines[2].startswith(f"| fedavg/{claim.id} (")
    assert dashboard.claims_table([]) == ""


def test_without_runs_a_project_is_enough_and_needed():
    comparison = dashboard.describe(None, [], project="p", entity="e")
    view = dashboard.as_json(comparison)["workspace"]
    names = [key["name"] for key in view["spec"]["section"]["runSets"][0]["grouping"]]
    assert names == ["task.value.name", "method.value.name"]
    with pytest.raises(ConfigError, match="name runs or a project"):
        dashboard.describe(None, [], project=None, entity=None)


def test_no_key_and_no_package_are_one_line(monkeypatch):
    comparison = dashboard.describe(None, [], project="p", entity="e")
    with pytest.raises(ConfigError, match=r"no W&B key found; run `wandb login`, or --out FILE"):
        dashboard.save(comparison)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with pytest.raises(ConfigError, match=r"dashboard: W&B refused .*--out FILE"):
        dashboard.save(comparison)
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'edge-fl-harness\[dashboards\]'"):
        dashboard.as_json(comparison)
