"""The shape of the code: who imports whom, how long things are, what happens on import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "lightning_modules": 0,
    "harness.types": 1,
    "harness.config": 1,
    "harness.loading": 1,
    "harness.cost": 1,
    "harness.data": 1,
    "harness.learning": 1,
    "harness.exchange": 2,
    "harness.scheduling": 2,
    "harness.run": 3,
    "harness.report": 3,
    "harness.methods": 4,
    "ray_actors": 5,
    "harness.cli_papers": 6,
    "harness.cli_remote": 6,
    "harness.cli": 6,
}
"""A module imports from its own floor and from those below."""
NARROWER = {
    "harness.types": set(),
    "harness.config": {"harness.types"},
    "harness.loading": {"harness.types", "harness.config"},
    "harness.run": set(FLOORS) - {"harness.report", "harness.methods", "ray_actors", "harness.cli"},
    "ray_actors": set(FLOORS)
    - {"harness.methods", "harness.report", "harness.cli", "harness.cli_papers", "harness.cli_remote"},
}
"""Parts that may import less than their floor allows (and always themselves)."""
OUTSIDE = {
    "ray": ("ray_actors/",),
    "wandb": ("harness/run/sinks", "harness/report/dashboard"),
    "wandb_workspaces": ("harness/report/dashboard",),
}
"""Package -> where alone it may be imported."""
MOST_LINES = {"file": 400, "class": 200, "function": 40}

FILES = sorted(
    p for top in ("harness", "ray_actors", "lightning_modules") for p in (ROOT / top).rglob("*.py")
)
TREES = {str(p.relative_to(ROOT)): ast.parse(p.read_text()) for p in FILES}


def part_of(module: str) -> str | None:
    """The key of FLOORS that a dotted name belongs to."""
    return next((part for part in FLOORS if f"{module}.".startswith(f"{part}.")), None)


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names imported anywhere in a file, those from `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_file_lies_on_a_floor() -> None:
    assert [f for f in TREES if part_of(dotted(f)) is None] == ["harness/__init__.py"]


def test_imports_go_down() -> None:
    wrong = []
    for file, tree in TREES.items():
        here = part_of(dotted(file))
        for name in imports(tree):
            there = part_of(name)
            if here is None or there is None or here == there:
                continue
            if FLOORS[there] > FLOORS[here] or there not in NARROWER.get(here, set(FLOORS)):
                wrong.append(f"{file} imports {name}")
    assert wrong == []


def test_methods_import_each_other_only_to_extend() -> None:
    wrong = []
    for file, tree in TREES.items():
        if not file.startswith("harness/methods/"):
            continue
        bases = {
            ast.unparse(b).split("[")[0]
            for n in ast.walk(tree)
            if isinstance(n, ast.ClassDef)
            for b in n.bases
        }
        parents = {m for m in imports(tree) if m.startswith("harness.methods.")}
        extended = {m.rpartition(".")[0] for m in parents if m.rpartition(".")[2] in bases}
        wrong += [f"{file} imports {m}" for m in parents if m.rpartition(".")[0] not in extended]
    assert wrong == []


@pytest.mark.parametrize("package", OUTSIDE)
def test_packages_stay_where_they_belong(package: str) -> None:
    users = {file for file, tree in TREES.items() for name in imports(tree) if name.split(".")[0] == package}
    assert [file for file in users if not file.startswith(OUTSIDE[package])] == []


def test_nobody_prints_but_the_command_line_and_the_report() -> None:
    wrong = [
        f"{file}:{node.lineno}"
        for file, tree in TREES.items()
        if not file.startswith(("harness/cli.py", "harness/report/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert wrong == []


def test_importing_does_nothing() -> None:
    """At module level: docstrings, imports, definitions, constants; code only under `if __name__ == ...`."""
    wrong = [f"{file}:{n.lineno}" for file, tree in TREES.items() for n in tree.body if not is_harmless(n)]
    assert wrong == []


def is_harmless(node: ast.stmt) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Assign(targets=targets):
            return all(isinstance(target, ast.Name) for target in targets)
        case ast.AnnAssign(target=ast.Name()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="add_typer"))):
            return True  # how Typer nests commands
        case ast.If(test=test):
            return ast.unparse(test) in ("TYPE_CHECKING", "__name__ == '__main__'")
    return False


def test_nothing_is_longer_than_its_ceiling() -> None:
    wrong = []
    for file, tree in TREES.items():
        lengths = [("file", "", len((ROOT / file).read_text().splitlines()))]
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                lengths.append((kind, node.name, (node.end_lineno or 0) - node.lineno + 1))
        wrong += [f"{file} {name}: {n} lines" for kind, name, n in lengths if n > MOST_LINES[kind]]
    assert wrong == []
