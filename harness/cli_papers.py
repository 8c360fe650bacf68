"""Commands over whole sweeps: the papers' tables beside ours, tuning, methods at equal budgets."""

from pathlib import Path
from typing import Annotated

import typer

from harness.types import ConfigError

app = typer.Typer()

Scale = Annotated[str | None, typer.Option(help="smoke, small or paper")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="key=value")]
BUDGET = "joules (the clients'), bytes, flops or sim_s: --budget joules=300"


@app.command()
def reproduce(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Sweeps of a paper's tables")],
    scale: Annotated[str, typer.Option(help="smoke, small or paper")] = "smoke",
    settings: Settings = None,
) -> None:
    """Run each sweep at a scale, and lay its paper's numbers and ours side by side."""
    from harness import cli
    from harness.report.reproduce import write
    from harness.run.sweep import expand

    failed = False
    for file in files:
        cells = expand(file, scale=scale, words=settings or [])
        failed |= not cli.play_cells(cells)
        out = Path(cells[0].cfg.run.results_dir) / "reports" / file.parent.name / f"{file.stem}-{scale}"
        try:
            found = write(file, cells, scale=scale, out=out)
        # One table that failed altogether leaves the others to be made.
        except ConfigError as error:
            cli.say(f"FAILED {file}: {error}")
            failed = True
            continue
        for table in found.tables:
            head, lines = table.text()
            cli.print_rows(f"{file}, scale {scale}: {table.title}", head, [tuple(line) for line in lines])
        cli.say(f"report: {out / 'report.html'}")
    if failed:
        raise typer.Exit(1)


@app.command()
def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sweep whose grid holds what is tuned")],
    budget: Annotated[str, typer.Option(metavar="COST=AMOUNT", help=BUDGET)],
    scale: Scale = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default tuned.yaml")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the comparison: 0, 1, ...")] = 5,
) -> None:
    """Run every trial, choose each variant's on val at a budget, and write the sweep that compares them."""
    from harness import cli
    from harness.report import frames, tune
    from harness.report.compare import parse_budget
    from harness.report.html import write_text
    from harness.run.sweep import expand

    limit, out = parse_budget(budget), out or file.with_name("tuned.yaml")
    cells = expand(file, scale=scale, words=settings or [])
    if not cli.play_cells(cells):
        raise typer.Exit(1)
    ids = {cell.cfg.run_id for cell in cells}
    results = frames.load(Path(cells[0].cfg.run.results_dir), ledger=False, only=ids)
    tried = tune.trials(cells, results, limit)
    chosen = tune.best(tried)
    rows = [
        (
            t.variant,
            ", ".join(f"{k}={v}" for k, v in t.values.items()),
            f"{t.val:.4f}",
            "*" * (t is chosen[t.variant]),
        )
        for t in tried
    ]
    cli.print_rows(f"{file}: val within {limit.told}", ["variant", "trial", "val", "chosen"], rows)
    sections = tune.tuned_sweep(file, chosen, scale=scale, before=out, seeds=range(seeds))
    write_text(out, tune.to_yaml(sections, file=file, budget=limit, scale=scale))
    cli.say(f"written: {out}")


@app.command()
def compare(
    source: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="A sweep to run, or a folder of runs")],
    budget: Annotated[list[str], typer.Option(metavar="COST=AMOUNT", help=BUDGET)],
    scale: Scale = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="D", help="Default in the runs' folder")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Metric value for cost-to-target")] = None,
) -> None:
    """Lay methods side by side at equal budgets: accuracy within each, cost to a target, Pareto fronts."""
    from harness import cli
    from harness.report import frames
    from harness.report.compare import parse_budget, write
    from harness.run.sweep import expand

    limits = [parse_budget(word) for word in budget]
    if source.is_dir():
        results, out = frames.load(source, ledger=False), out or source / "compare"
    else:
        cells = expand(source, scale=scale, words=settings or [])
        cli.play_cells(cells)
        ids = {cell.cfg.run_id for cell in cells}
        folder = Path(cells[0].cfg.run.results_dir)
        results = frames.load(folder, ledger=False, only=ids)
        out = out or folder / "reports" / source.parent.name / f"{source.stem}-{scale or 'default'}"
    page = write(results, limits, out=out, target=target)
    cli.say((out / "compare.md").read_text())
    cli.say(f"report: {page}")
