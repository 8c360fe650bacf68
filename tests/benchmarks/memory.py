"""Peak memory of the harness, summed over its processes, for few and for many clients and cohort members.

The no-op workload (6.5 MB of weights there and back) with everyone in the cohort shows what grows with it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SAMPLE_EVERY_S = 0.25


def tree_bytes(root: psutil.Process) -> int:
    """Unique memory of a process and its descendants: pages they share count once or not at all."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def peak_bytes(num_clients: int, *, rounds: int) -> int:
    """Peak of one run of the harness as a contender."""
    script = Path(__file__).with_name("harness_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        words = ["--workload", "noop", "--rounds", str(rounds), "--json", f"{folder}/out.json"]
        sizes = f"partition.num_clients={num_clients} scheduler.cohort_size={num_clients}"
        command = ["env", f"HARNESS_BENCH_WORDS={sizes} task.options={{noop:{num_clients}}}"]
        child = subprocess.Popen([*command, sys.executable, str(script), *words], stdout=subprocess.DEVNULL)
        peak = 0
        root = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, tree_bytes(root))
            time.sleep(SAMPLE_EVERY_S)
        assert child.returncode == 0, f"the run with {num_clients} clients failed"
    return peak


def main() -> None:
    """Print the peaks and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, nargs=2, default=[10, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    few, many = (peak_bytes(count, rounds=args.rounds) for count in args.clients)
    print(f"{args.clients[0]} clients: {few / 1e6:.0f} MB; {args.clients[1]} clients: {many / 1e6:.0f} MB; "
          f"ratio {many / few:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
