"""A user's own method, task and model, in one file of a folder of their own, on Ray and in this process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

OWN = """
import numpy as np
import torch
from torch import nn

from harness.data.task import Examples, Splits, Task
from harness.methods.fedavg import FedAvg


class Halves(FedAvg):
    '''FedAvg that keeps half of every update.'''

    def round(self, cohort):
        before = self.weights
        found = super().round(cohort)
        self.weights = {name: torch.lerp(w, self.weights[name], 0.5) for name, w in before.items()}
        return {**found, "train/halved": 1.0}


class Signs(Task):
    '''Is the first coordinate positive?'''

    input_shape = (4,)
    num_classes = 2
    num_train = 60

    def load(self):
        x = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
        y = (x[:, 0] > 0).astype(np.int64)
        return Splits(*(Examples(x[part], y[part]) for part in (slice(60), slice(60, 80), slice(80, 100))))

    def to_inputs(self, rows):
        return torch.from_numpy(rows)

    def augment(self, inputs, generator):
        return inputs


class Line(nn.Module):
    def __init__(self, *, input_shape, num_classes):
        super().__init__()
        self.line = nn.Linear(input_shape[0], num_classes)

    def forward(self, inputs):
        return self.line(inputs)
"""


def test_own_method_task_and_model_run_from_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    words = ["method=own:Halves", "task=own:Signs", "model=own:Line", "partition.num_clients=3"]
    harness = Path(sys.executable).with_name("harness")
    records = {}
    for transport in ("ray", "local"):
        where = [f"run.results_dir={transport}", f"runtime.transport={transport}", "run.num_rounds=2"]
        done = subprocess.run(
            [harness, "run", *words, *where, "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["method"], summary["metrics"]["train/halved"]) == ("own:Halves", 1.0)
        records[transport] = (tmp_path / transport / summary["run_id"] / "rounds.jsonl").read_text()
    assert records["ray"] == records["local"]
