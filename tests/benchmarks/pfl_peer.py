"""pfl-research's simulated backend on the same workload: starts two ranks, which all-reduce over gloo.

pfl joins its process group while it is imported, so each rank needs its place in the environment beforehand.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

NUM_RANKS = 2
RANK = Path(__file__).with_name("pfl_rank.py")


def main() -> None:
    """Start the ranks, wait for them, and fail when one of them did."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "PFL_PYTORCH_DEVICE": "cpu",
        "PFL_WORKER_ADDRESSES": ",".join([address] * NUM_RANKS),
    }
    command = [sys.executable, "-W", "ignore::FutureWarning", str(RANK), *sys.argv[1:]]
    ranks = [
        subprocess.Popen(command, env={**environment, "PFL_WORKER_RANK": str(rank)})
        for rank in range(NUM_RANKS)
    ]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        sys.exit(f"the ranks ended with {codes}")


if __name__ == "__main__":
    main()
