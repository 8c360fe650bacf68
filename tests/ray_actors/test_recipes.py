"""The cluster launcher's file against Ray's schema; the Slurm script with a Slurm that only writes down."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "sweeps" / "slurm.sh"


@pytest.fixture
def cluster() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "sweeps" / "cluster.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_the_cluster_is_valid_for_ray(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))
    with pytest.raises(jsonschema.ValidationError, match="num_workers"):
        validate_config(prepare_config({**cluster, "num_workers": 3}))


def test_a_cpu_head_and_gpu_workers(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    workers = set(types) - {cluster["head_node_type"]}
    assert types[cluster["head_node_type"]]["node_config"]["InstanceType"].startswith("m")
    assert [types[name]["node_config"]["InstanceType"].startswith("g") for name in workers] == [True]
    images = [cluster["docker"][key] for key in ("head_image", "worker_image")]
    assert [image.rpartition("-")[2] for image in images] == ["cpu", "gpu"]
    # One Ray and one Python everywhere, those that the tests ran with.
    (release,) = {image.rpartition("-")[0] for image in images}
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert release == f"rayproject/ray:{pins['ray']}-py311"
    assert all(Path(ROOT / path).exists() for path in cluster["file_mounts"].values())


def slurm(tmp_path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script as job 41 on two nodes; `srun` prints its arguments as JSON."""
    tools = {
        "scontrol": '#!/bin/sh\necho "node-a"; echo "node-b"\n',
        "srun": '#!/bin/sh\npython3 -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"\n',
    }
    for name, text in tools.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    given = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "41"}
    given |= {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8"}
    command = ["bash", str(SLURM), *words]
    return subprocess.run(command, env=given | env, capture_output=True, text=True, check=False)


def test_the_slurm_script_starts_ray_on_all_nodes_and_the_command_on_the_first(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    words = json.loads(slurm(tmp_path, "sweep", "a b.yaml", "--scale", "small").stdout)
    at = words.index("--")
    assert words[3:at] == [
        *("ray", "symmetric-run", "--address", "node-a:20041", "--min-nodes", "2", "--num-cpus", "8")
    ]
    assert words[at + 1 :] == [
        *("python", "-m", "harness.cli", "sweep", "a b.yaml", "--scale", "small"),
        *("--set", "runtime.address=auto", "--set", f"run.results_dir={tmp_path}/results"),
    ]


def test_the_slurm_script_knows_single_runs_and_shared_results(tmp_path: Path) -> None:
    words = json.loads(slurm(tmp_path, "run", "task=digits", RESULTS="/shared/r").stdout)
    assert words[-3:] == ["task=digits", "runtime.address=auto", "run.results_dir=/shared/r"]
    assert slurm(tmp_path).returncode == 2


def test_ray_knows_the_command_of_the_slurm_script() -> None:
    from ray.scripts.symmetric_run import symmetric_run

    assert {"address", "min_nodes"} <= {parameter.name for parameter in symmetric_run.params}
