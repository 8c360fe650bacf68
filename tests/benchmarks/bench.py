"""Run the contenders by turns on the same workload and compare them: tables of ratios to the plain loop.

On a noisy machine only ratios count, and only between runs close in time: the contenders take turns
(A B C, A B C, ...) and a ratio is taken within each turn.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLOOR = "floor"
WORKLOAD_NAMES = ("train", "noop")
TIMEOUT_S = 1800
SAMPLE_EVERY_S = 0.5
MAKE_TARGET = "make bench-peers"
LAUNCHED_VARIABLE = "BENCH_LAUNCHED_S"  # workload.py reads it; not imported from there, as that imports torch
LOSS_TOLERANCE = {"train": 0.5, "noop": 1e-3}


@dataclass(frozen=True, slots=True)
class Contender:
    """A script to run and the interpreter that can run it."""

    name: str
    """name on the command line and in the tables"""
    script: Path
    """the contender's file"""
    python: Path
    """interpreter of its virtual environment"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one contender measured."""

    contender: str
    """name of the contender"""
    workload: str
    """train or noop"""
    repeat: int
    """turn, from 0"""
    version: str
    """package and version"""
    note: str
    """the contender's own words on how it ran"""
    setup_s: float
    """launch to the start of the first round, s"""
    first_round_s: float
    """first round, s"""
    round_s: list[float]
    """each warm round, s"""
    peak_rss_bytes: int
    """largest sum of resident memory over the process tree, sampled twice a second, bytes"""
    final_loss: float
    """cross-entropy of the last global weights over the same 1,000 examples"""
    load_1m: float
    """the machine's load average at launch"""

    @property
    def warm_s(self) -> float:
        """Median warm round, s."""
        return statistics.median(self.round_s)


def contenders() -> dict[str, Contender]:
    """Name the contenders: floor and harness run in this interpreter, peers in their own environment."""
    own = Path(sys.executable)
    known = (
        Contender(FLOOR, HERE / "floor.py", own),
        Contender("harness", HERE / "harness_peer.py", own),
        Contender("flower", HERE / "flower_peer.py", ROOT / ".venv-flower/bin/python"),
        Contender("pfl", HERE / "pfl_peer.py", ROOT / ".venv-pfl/bin/python"),
    )
    return {contender.name: contender for contender in known}


def tree_rss(root: psutil.Process) -> int:
    """Sum the resident memory of a process and its descendants, bytes; shared pages count in each."""
    total = 0
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it ended while we looked
            continue
    return total


def wait_and_sample(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the process; return its tree's peak memory, bytes. Raises TimeoutError past the limit."""
    root, peak = psutil.Process(process.pid), 0
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no end within {TIMEOUT_S} s")
            peak = max(peak, tree_rss(root))
            time.sleep(SAMPLE_EVERY_S)
    finally:  # also on Ctrl-C: it has a process group of its own and would run on
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return peak


def run_contender(contender: Contender, *, workload: str, rounds: int, repeat: int) -> Run:
    """Run a contender once in a fresh process; raises RuntimeError with the end of its output if it fails."""
    load_1m = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        report = Path(folder) / "report.json"
        options = ["--workload", workload, "--rounds", str(rounds), "--json", str(report)]
        process = subprocess.Popen(
            [contender.python, contender.script, *options],
            env={**os.environ, "OMP_NUM_THREADS": "1", LAUNCHED_VARIABLE: repr(time.perf_counter())},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        peak = wait_and_sample(process)
        if process.returncode != 0:
            log.seek(0)
            raise RuntimeError(
                f"exit status {process.returncode}:\n" + log.read().decode(errors="replace")[-2000:]
            )
        measured = json.loads(report.read_text(encoding="utf-8"))
    return Run(
        contender=contender.name,
        workload=workload,
        repeat=repeat,
        version=f"{measured['name']} {measured['version']}",
        note=measured["note"],
        setup_s=measured["setup_s"],
        first_round_s=measured["first_round_s"],
        round_s=measured["round_s"],
        peak_rss_bytes=peak,
        final_loss=measured["final_loss"],
        load_1m=load_1m,
    )


def available(names: Sequence[str], console: Console) -> list[Contender]:
    """Keep the contenders that can run here, and say which cannot and why."""
    known, kept = contenders(), []
    for name in names:
        contender = known[name]
        if not contender.script.exists():
            console.print(f"skipped {name}: {contender.script.name} is missing")
        elif not contender.python.exists():
            console.print(
                f"skipped {name}: {contender.python.parents[1].name} is missing; build it with {MAKE_TARGET}"
            )
        else:
            kept.append(contender)
    return kept


def run_all(chosen: Iterable[Contender], args: argparse.Namespace, console: Console) -> list[Run]:
    """Run the contenders in turn, for each repeat and workload; a run that fails is reported and left out."""
    runs: list[Run] = []
    for repeat in range(args.repeats):
        for workload in args.workload:
            for contender in chosen:
                try:
                    run = run_contender(contender, workload=workload, rounds=args.rounds, repeat=repeat)
                except (RuntimeError, TimeoutError) as error:
                    console.print(
                        f"{contender.name} {workload} repeat {repeat} failed: {error}", markup=False
                    )
                    continue
                console.print(f"{contender.name} {workload} repeat {repeat}: {run.warm_s:.3f} s a warm round")
                runs.append(run)
    return runs


def ratio_to_floor(runs: Sequence[Run], *, contender: str, workload: str) -> float | None:
    """Return the median over the repeats of (contender's warm round / the floor's in the same repeat)."""
    warm = {(run.contender, run.repeat): run.warm_s for run in runs if run.workload == workload}
    ratios = [
        seconds / warm[FLOOR, repeat]
        for (name, repeat), seconds in warm.items()
        if name == contender and (FLOOR, repeat) in warm
    ]
    return statistics.median(ratios) if ratios else None


def loss_cell(runs: Sequence[Run], mine: Sequence[Run]) -> str:
    """Show the median final loss, marked when it is far from the floor's: then the work was not the same."""
    workload = mine[0].workload
    loss = statistics.median(run.final_loss for run in mine)
    floors = [run.final_loss for run in runs if (run.contender, run.workload) == (FLOOR, workload)]
    differs = bool(floors) and not abs(loss - statistics.median(floors)) <= LOSS_TOLERANCE[workload]
    return f"{loss:.3f} DIFFERS" if differs else f"{loss:.3f}"


HEADINGS = (
    "contender",
    "workload",
    "warm round s",
    "x floor",
    "best round s",
    "first round s",
    "to end of 1st s",
    "peak MB",
    "loss",
)


def summary_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Make one row per contender and workload, medians over the repeats, in the order of `HEADINGS`."""
    rows: list[tuple[str, ...]] = []
    for workload in dict.fromkeys(run.workload for run in runs):
        for name in dict.fromkeys(run.contender for run in runs):
            mine = [run for run in runs if (run.contender, run.workload) == (name, workload)]
            if not mine:
                continue
            ratio = ratio_to_floor(runs, contender=name, workload=workload)
            rows.append(
                (
                    f"{name} ({mine[0].version})",
                    workload,
                    f"{statistics.median(run.warm_s for run in mine):.3f}",
                    "-" if ratio is None else f"{ratio:.2f}",
                    f"{min(min(run.round_s) for run in mine):.3f}",
                    f"{statistics.median(run.first_round_s for run in mine):.2f}",
                    f"{statistics.median(run.setup_s + run.first_round_s for run in mine):.1f}",
                    f"{statistics.median(run.peak_rss_bytes for run in mine) / 1e6:.0f}",
                    loss_cell(runs, mine),
                )
            )
    return rows


def print_table(rows: Iterable[tuple[str, ...]], console: Console) -> None:
    """Print the summary."""
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=heading == HEADINGS[0])
    for row in rows:
        table.add_row(*row)
    console.print(table)


def write_results(out: Path, runs: Sequence[Run], args: argparse.Namespace) -> None:
    """Write `out`.json with every run and `out`.md with the summary."""
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    settings = {"repeats": args.repeats, "rounds": args.rounds, "workloads": args.workload}
    document = {"machine": machine, "settings": settings, "runs": [asdict(run) for run in runs]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"{args.repeats} repeats by turns, {args.rounds} warm rounds each, {machine['cores']} cores.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + " --- |" * len(HEADINGS),
        *("| " + " | ".join(row) + " |" for row in summary_rows(runs)),
        "",
    ]
    out.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    names = list(contenders())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--workload", nargs="+", choices=WORKLOAD_NAMES, default=list(WORKLOAD_NAMES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10, help="warm rounds, after one first round")
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench/bench", help="without a suffix")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark; exits with 1 when a contender failed."""
    args, console = parse_args(), Console(width=None if sys.stdout.isatty() else 160)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a running contender is ended too
    chosen = available(args.contenders, console)
    runs = run_all(chosen, args, console)
    print_table(summary_rows(runs), console)
    write_results(args.out, runs, args)
    if len(runs) < len(chosen) * args.repeats * len(args.workload):
        sys.exit(1)


if __name__ == "__main__":
    main()
