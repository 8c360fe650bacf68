#!/bin/sh
# An environment for each peer of peers.txt: they pin other versions of Ray than the harness.
set -e
cd "$(dirname "$0")/../.."
grep -v '^#' tests/benchmarks/peers.txt | while read -r venv requirements; do
    test -x "$venv/bin/python" || "${PYTHON:-python3}" -m venv "$venv"
    # shellcheck disable=SC2086 # a list of requirements
    "$venv/bin/python" -m pip install --quiet $requirements
done
