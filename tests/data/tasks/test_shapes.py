import numpy as np
import pytest
import torch

from harness.config import TaskConfig
from harness.data.task import Splits
from harness.data.tasks import load_task
from harness.types import ConfigError

SMALL = {"num_train": 60, "num_test": 20, "image_size": 32}


def load(name: str, **keys: object) -> Splits:
    return load_task(TaskConfig(name=f"shapes_{name}", options=SMALL | keys)).load()  # type: ignore[arg-type]


def test_forms() -> None:
    boxes, masks = load("detection", max_shapes=2), load("segmentation", max_shapes=2)
    assert [len(part) for part in (boxes.train, boxes.val, boxes.test)] == [54, 6, 20]
    assert (boxes.train.inputs.shape, boxes.train.inputs.dtype) == ((54, 32, 32, 3), np.uint8)
    assert (boxes.train.targets.shape, boxes.train.targets.dtype) == ((54, 2, 5), np.float32)
    assert (masks.train.targets.shape, masks.train.targets.dtype) == ((54, 32, 32), np.uint8)


def test_the_same_data_every_time_and_for_both_tasks() -> None:
    one, two, masks = load("detection").test, load("detection").test, load("segmentation").test
    np.testing.assert_array_equal(one.inputs, two.inputs)
    np.testing.assert_array_equal(one.targets, two.targets)
    # Rows stand in another order: that of their labels.
    assert {image.tobytes() for image in one.inputs} == {image.tobytes() for image in masks.inputs}


def test_boxes_bound_the_pixels_of_their_shape() -> None:
    boxes, masks = load("detection", max_shapes=1).train, load("segmentation", max_shapes=1).train
    where = {image.tobytes(): mask for image, mask in zip(masks.inputs, masks.targets, strict=True)}
    for image, rows in zip(boxes.inputs, boxes.targets, strict=True):
        label, cx, cy, w, h = rows[0]
        # Splits hold the same images but for val, which is cut from the head of another order.
        if (mask := where.get(image.tobytes())) is None:
            continue
        y, x = np.nonzero(mask)
        assert set(np.unique(mask)) == {0, int(label) + 1}
        sides = [x.min(), x.max() + 1, y.min(), y.max() + 1]
        edges = 32 * np.array([cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2])
        # A triangle's tip may miss the centres of its first pixels.
        assert np.abs(np.array(sides) - edges).max() <= 2.5
        assert (edges >= -1e-4).all()
        assert (edges <= 32 + 1e-4).all()


def test_every_image_shows_1_to_max_shapes() -> None:
    task = load_task(TaskConfig(name="shapes_detection", options=SMALL | {"max_shapes": 3}))
    targets = task.load().train.targets
    counts = task.class_counts(targets).sum(axis=1)
    assert set(counts) == {1, 2, 3}
    assert (targets[targets[..., 0] == -1][:, 1:] == 0).all()
    assert task.class_names == ("rectangle", "disc", "triangle")


def test_labels_pick_what_is_there_most_and_never_the_background() -> None:
    task = load_task(TaskConfig(name="shapes_segmentation", options=SMALL))
    masks = np.zeros((3, 32, 32), np.uint8)
    masks[0, :4], masks[0, 4:10] = 1, 3
    masks[1, :10], masks[1, 10:] = 2, 255
    assert task.labels(masks).tolist() == [3, 2, 0]
    assert task.class_counts(masks)[0].tolist() == [0, 4 * 32, 0, 6 * 32]
    boxes = load_task(TaskConfig(name="shapes_detection", options=SMALL))
    targets = np.zeros((2, 3, 5), np.float32)
    # A difficult box of class 0 (-2) is not counted.
    targets[..., 0] = [[2, 2, 0], [-2, 1, -1]]
    assert boxes.class_counts(targets).tolist() == [[1, 0, 2], [0, 1, 0]]
    assert boxes.labels(targets).tolist() == [2, 1]


def test_hflip_mirrors_boxes_and_masks() -> None:
    for name in ("detection", "segmentation"):
        task = load_task(TaskConfig(name=f"shapes_{name}", options=SMALL, augment=["hflip"]))
        train = task.load().train
        plain = whole_batch = task_batch(task, train)
        flipped = task.augmented(whole_batch, torch.Generator().manual_seed(1))
        same = (flipped.inputs == plain.inputs).flatten(1).all(dim=1)
        assert 0 < int(same.sum()) < len(same)
        assert torch.equal(flipped.inputs[~same], plain.inputs[~same].flip(3))
        assert torch.equal(flipped.targets[same], plain.targets[same])
        if name == "segmentation":
            assert torch.equal(flipped.targets[~same], plain.targets[~same].flip(2))
            assert flipped.targets.dtype == torch.int64
        else:
            real = plain.targets[~same][..., 0] >= 0
            got, was = flipped.targets[~same], plain.targets[~same]
            assert torch.allclose(got[real][:, 1], 1 - was[real][:, 1])
            assert torch.equal(got[real][:, [0, 2, 3, 4]], was[real][:, [0, 2, 3, 4]])
            assert torch.equal(got[~real], was[~real])


def task_batch(task, examples):  # type: ignore[no-untyped-def]
    from harness.data.task import Shard

    return Shard(task, examples, np.arange(len(examples))).take(np.arange(20))


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (
            TaskConfig(augment=["hflip", "crop"]),
            "task.augment: crop moves or hides what task shapes_detection",
        ),
        (TaskConfig(options={"max_shapes": 0}), "task.options.max_shapes must be >= 1, got 0"),
        (TaskConfig(image_size=8), "task.image_size must be >= 16 for shapes, got 8"),
        (TaskConfig(options={"shapes": 3}), r"task.options.shapes: unknown key; did you mean max_shapes\?"),
    ],
)
def test_errors(cfg: TaskConfig, reason: str) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError, match=reason):
        load_task(replace(cfg, name="shapes_detection"))
