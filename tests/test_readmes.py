"""The READMEs: their code runs as it stands there, their commands load, and what they name exists."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import loading
from harness.report import load
from harness.run.describe import describe
from harness.run.driver import execute
from harness.run.method import method_config
from harness.run.runtime import LocalRuntime

ROOT = Path(__file__).parent.parent
FOLDERS = ("harness", "ray_actors", "sweeps", "results")
READMES = [ROOT / "README.md", *sorted(path for top in FOLDERS for path in (ROOT / top).rglob("README.md"))]
SWEEPS = sorted(p for p in ROOT.glob("sweeps/*/*.yaml") if p.stem != "claims" and p.parent.name != "compare")
TINY = ["partition.num_clients=3", "run.num_rounds=2", "runtime.transport=local", "fleet.profiles={phone: 1}"]


def code_of(readme: str) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)
    return str(found)


def run(tmp_path: Path, *words: str) -> Path:
    """A tiny run of a user's own file; its results folder."""
    results = tmp_path / "results" / "demo"
    cfg = loading.load([*TINY, *words, f"run.results_dir={results}"], method_config=method_config)
    execute(cfg, runtime=LocalRuntime())
    return results


def test_the_method_of_the_readme_sends_a_byte_for_every_four_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "signsgd.py").write_text(code_of("harness/methods/README.md"))
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [
        "method=signsgd:SignSgd",
        "task=digits",
        "model=logistic",
        "task.image_size=8",
        "method.step=0.05",
    ]
    results = load(run(tmp_path, *words), ledger=True)
    trained = results.ledger.query("endpoint == 'vote'")
    assert len(trained) == 2 * 3
    assert (trained["rx_bytes"] == 4 * trained["tx_bytes"]).all()
    told = describe(loading.load([*TINY, *words], method_config=method_config))["exchanges"]
    assert {row["tx_bytes"] for row in told} == set(trained["tx_bytes"])
    assert results.runs["eval/accuracy"].item() > 0.5


def test_the_task_of_the_readme_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wine.py").write_text(code_of("harness/data/tasks/README.md"))
    monkeypatch.syspath_prepend(str(tmp_path))
    results = load(run(tmp_path, "method=fedavg", "task=wine:Wine", "method.lr=0.1"), ledger=False)
    assert results.runs["eval/accuracy"].item() > 0.9


def test_the_ledger_is_read_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "method=fedavg", "task=synthetic", "model=logistic", "task.options.num_train=100")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(code_of("harness/cost/README.md"), found)
    assert set(found["train"].columns) >= set(re.findall(r"`(\w+_(?:bytes|s|j))`", COLUMNS))  # type: ignore[attr-defined]
    assert (found["evaluated"] > 0).all()  # type: ignore[operator]


COLUMNS = (ROOT / "harness" / "cost" / "README.md").read_text().split("```python")[0]


def named(readme: Path) -> str:
    return str(readme.relative_to(ROOT))


def is_of(sweep: str, target: str) -> bool:
    """As the Makefile has it: table3_cifar10 for table3, figures_4_5 for figure4."""
    start, _, number = target.rpartition("figure")
    several = re.match(rf"{start}figures_.*{number}", sweep) if number.isdigit() else None
    return sweep == target or sweep.startswith(f"{target}_") or several is not None


def commands_of(readme: Path) -> list[list[str]]:
    """`harness run` and `harness describe` lines of a README, without what only hints at more words."""
    blocks = re.findall(r"```\n(.*?)```", readme.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("harness ")]
    return [w[2:] for w in words if w[1] in ("run", "describe") and "..." not in w]


@pytest.mark.parametrize("readme", READMES, ids=named)
def test_files_targets_and_commands_that_are_named_exist(readme: Path) -> None:
    text = readme.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (readme.parent / link).exists(), link
    for name in re.findall(r"`([a-z_./]+\.(?:py|yaml|sh))`", text):
        if name not in ("signsgd.py", "tuned.yaml", "config.yaml"):
            assert (ROOT / name).exists() or (readme.parent / name).exists(), name
    rules = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}[a-z%-]*:", rules, re.MULTILINE), target
    known = {f"{p.parent.name}-{p.stem}" for p in SWEEPS}
    known |= set(re.findall(r"^reproduce-([a-z]+-[a-z0-9]+):", rules, re.MULTILINE))
    for target in re.findall(r"make reproduce-([a-z]+-[a-z0-9_]+)", text):
        assert any(is_of(name, target) for name in known), target
    for words in commands_of(readme):
        loading.load([w for w in words if not w.startswith("--")], method_config=method_config)


@pytest.mark.parametrize("paper", ["fedgkt", "mfl", "fdnnc", "fpl", "rpn"])
def test_the_how_to_of_a_paper_names_all_of_its_sweeps(paper: str) -> None:
    targets = re.findall(
        rf"make reproduce-{paper}-([a-z0-9_]+)", (ROOT / "sweeps" / paper / "README.md").read_text()
    )
    for file in SWEEPS:
        if file.parent.name == paper:
            assert any(is_of(file.stem, target) for target in targets), file


FIGURES = {
    "fedgkt": {"table1": "table1", "figure3": "figure3", "figure4": "figures_4_5", "figure5": "figures_4_5"},
    "mfl": {"accuracy": "accuracy", "failures": "failures"},
    "fdnnc": {
        "table3": "table3_cifar10",
        "table4": "table4_femnist",
        "figure5": "figures_5_6",
        "figure6": "figures_5_6",
    },
    "fpl": {"figure5": "figure5", "figure6": "figure6", "table1": "table1"},
    "rpn": {"table1": "table1", "figure4": "table1", "figure5": "table2", "figure6": "table3"},
}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("paper", FIGURES)
def test_every_figure_has_its_target(paper: str) -> None:
    for target, sweep in FIGURES[paper].items():
        words = ["make", "--dry-run", f"reproduce-{paper}-{target}", "SCALE=small"]
        told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert f"harness reproduce sweeps/{paper}/{sweep}.yaml --scale small" in told
