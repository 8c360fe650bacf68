"""Commands that speak with other machines: W&B's pages, Ray clusters, storage."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def dashboard(
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder that holds runs")] = None,
    project: Annotated[str | None, typer.Option(help="W&B project; default that of the runs")] = None,
    entity: Annotated[str | None, typer.Option(help="W&B entity; default that of the runs")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="JSON instead of W&B")] = None,
) -> None:
    """Create a saved workspace and a report on W&B that compare methods."""
    from harness import report as reporting
    from harness.report import dashboard as dashboards
    from harness.report.claims import audit, load_claims

    results = reporting.load(directory, ledger=False) if directory else None
    measured = [claim for claim in load_claims() if claim.question] if directory else []
    verdicts = audit(measured, results=directory) if directory else []
    comparison = dashboards.describe(results, verdicts, project=project, entity=entity)
    if out is None:
        for address in dashboards.save(comparison):
            typer.echo(address)
        return
    out.write_text(json.dumps(dashboards.as_json(comparison), indent=1))
    typer.echo(f"workspace and report, as W&B would get them: {out}")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def submit(
    words: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="run, sweep or reproduce, as here")
    ],
    address: Annotated[str, typer.Option(help="Dashboard of the cluster, e.g. http://head:8265")],
    to: Annotated[str | None, typer.Option(metavar="URL", help="Copy the runs there in the end")] = None,
    results: Annotated[str | None, typer.Option(metavar="DIR", help="Folder on the head node")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the job")] = None,
    wait: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = True,
) -> None:
    """Run a command on a cluster, with this folder's files, as a Ray job."""
    from ray_actors import jobs

    variables = dict(word.partition("=")[::2] for word in env or [])
    folder = results or jobs.RESULTS
    job = jobs.submit(words, address=address, results=folder, to=to, env=variables, folder=Path.cwd())
    typer.echo(f"job {job}; `ray job logs -f {job} --address {address}` follows it, `ray job stop` ends it")
    if wait and not jobs.follow(job, address=address, write=lambda text: typer.echo(text, nl=False)):
        raise typer.Exit(1)


@app.command()
def fetch(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Of the head node")] = "~/harness-results",
    address: Annotated[
        str, typer.Option(help="Of the cluster: ray://head:10001, head:6379 or auto")
    ] = "auto",
    into: Annotated[Path, typer.Option(metavar="DIR", help="Folder here")] = Path("results"),
) -> None:
    """Copy runs from a cluster's head node; finished ones that are here already are left alone."""
    from ray_actors.fetch import fetch as fetch_runs

    typer.echo(f"{fetch_runs(folder, address=address, into=into, say=typer.echo)} runs fetched")


@app.command()
def gather(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Folder or URL that holds runs")],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="Folder or URL: s3://..., gs://..., file://...")
    ],
) -> None:
    """Copy runs to shared storage, or from there."""
    from harness.run.gather import gather as gather_runs

    typer.echo(f"{gather_runs(source, target, say=typer.echo)} runs copied")
