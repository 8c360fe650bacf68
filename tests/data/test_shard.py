import numpy as np
import torch

from harness.config import TaskConfig
from harness.data.task import Shard
from harness.data.tasks import load_task
from harness.data.views import apply_view


def test_a_shard_shows_its_view_of_its_rows() -> None:
    task = load_task(TaskConfig(name="synthetic"))
    train = task.load().train
    rows = np.array([3, 50, 51, 700])
    plain = Shard(task, train, rows).take(np.arange(4))
    assert plain.ids.tolist() == [3, 50, 51, 700]
    assert plain.targets.tolist() == train.targets[rows].tolist()
    assert torch.equal(plain.inputs, task.to_inputs(train.inputs[rows]))
    for name in ("crop", "erase", "vflip"):
        seen = Shard(task, train, rows, name).take(np.array([2, 0]))
        ids = torch.tensor([51, 3])
        want = apply_view(name, plain.inputs[[2, 0]], ids=ids, black=torch.tensor(task.black), classes=ids)
        assert torch.equal(seen.inputs, want)
        assert not torch.equal(seen.inputs, plain.inputs[[2, 0]])


def test_what_crop_pads_with_is_a_black_pixel() -> None:
    task = load_task(TaskConfig(name="synthetic", options={"channels": 3}))
    black = task.to_inputs(np.zeros((1, 16, 16, 3), np.uint8))
    torch.testing.assert_close(black[0, :, 0, 0], torch.tensor(task.black))
