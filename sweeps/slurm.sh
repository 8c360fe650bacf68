#!/usr/bin/env bash
# A harness command on the nodes of a Slurm allocation: `sbatch sweeps/slurm.sh sweep sweeps/demo.yaml --scale small`.
# Change the lines below for your site; ray_actors/README.md tells what each is for.
#SBATCH --job-name=edge-fl-harness
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=1
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --output=harness-%j.out
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: sbatch $0 run|sweep|reproduce ..." >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:?run it with sbatch}"
# The environment of `make setup`, on a file system that every node sees.
export PATH="$PWD/${VENV:-.venv}/bin:$PATH"

# Written by the driver on the first node, read by every actor: shared storage as well.
results=${RESULTS:-$PWD/results}
case $1 in
    run) set -- "$@" runtime.address=auto "run.results_dir=$results" ;;
    *) set -- "$@" --set runtime.address=auto --set "run.results_dir=$results" ;;
esac

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# A port of its own for each job, where two of them share a node.
port=$((20000 + SLURM_JOB_ID % 20000))

# Starts Ray on every node, runs the command on the first one when all have joined, and ends Ray again.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "${SLURM_CPUS_PER_TASK:-1}" -- \
    python -m harness.cli "$@"
