import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import annotation, write_mask, write_voc

from harness.config import TaskConfig
from harness.data.task import Shard, Task
from harness.data.tasks import load_task
from harness.data.tasks import voc as voc_task
from harness.types import ConfigError, DataError

PETS = {"dataset": "Pets", "classes": ["cat", "dog"]}


def make(kind: str, root: Path | None = None, **keys: object) -> Task:
    path = None if root is None else str(root)
    options = {**PETS, **keys}
    return load_task(
        TaskConfig(name=f"voc_{kind}", image_size=20, val_fraction=0.2, path=path, options=options)
    )


@pytest.fixture
def pets(data_dir: Path) -> Path:
    root = data_dir / "VOCdevkit/Pets"
    write_voc(root)
    return root


def test_detection(pets: Path) -> None:
    task = make("detection")
    splits = task.load()
    # train and val are trained on, a fifth of them held out; test is tested on.
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [8, 2, 3]
    assert splits.train.inputs.shape == (8, 20, 20, 3)
    assert splits.train.targets.shape == (8, 2, 5)
    assert task.class_counts(np.concatenate([splits.train.targets, splits.val.targets])).sum(
        axis=0
    ).tolist() == [5, 10]
    batch = Shard(task, splits.train, np.arange(8)).take(np.array([3, 1]))
    assert (batch.inputs.shape, batch.targets.shape) == ((2, 3, 20, 20), (2, 2, 5))
    assert (batch.inputs.dtype, batch.targets.dtype) == (torch.float32, torch.float32)
    # The one cat of an image fills its upper left quarter.
    cats = splits.train.targets[splits.train.targets[:, 0, 0] == 0]
    np.testing.assert_allclose(cats[:, 0], np.tile([0, 0.25, 0.25, 0.5, 0.5], (len(cats), 1)), atol=1e-6)


def test_segmentation(pets: Path) -> None:
    task = make("segmentation")
    splits = task.load()
    assert task.class_names == ("background", "cat", "dog")
    assert (splits.train.targets.shape, splits.train.targets.dtype) == ((8, 20, 20), np.uint8)
    batch = Shard(task, splits.train, np.arange(8)).take(np.arange(4))
    assert (batch.targets.shape, batch.targets.dtype) == ((4, 20, 20), torch.int64)
    assert set(batch.targets[:, :, 15:].unique().tolist()) <= {0, 255}
    assert set(batch.targets[:, 5:, :8].unique().tolist()) == {1, 2}


def test_without_a_test_list_val_is_tested_on(tmp_path: Path) -> None:
    write_voc(tmp_path / "pets", test=0)
    splits = make("detection", tmp_path / "pets").load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [6, 2, 2]


def test_lists_can_be_named(pets: Path) -> None:
    splits = make("detection", train="train", test="val+test").load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [6, 2, 5]
    with pytest.raises(
        DataError, match=r"Main: im08 stands in more than one of the lists train\+val and val"
    ):
        make("detection", train="train+val", test="val").load()
    with pytest.raises(DataError, match=r"trianval\.txt: not a list of image names"):
        make("detection", train="trianval").load()


def test_images_are_read_once(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make("detection").load()
    with monkeypatch.context() as patch:
        patch.setattr(voc_task, "read_image", lambda *_, **__: pytest.fail("an image was read again"))
        again = make("detection").load()
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(first.train.targets, again.train.targets)
    # An edit is seen, and so is another setting.
    (pets / "Annotations/im00.xml").write_text(annotation(("dog", (1, 1, 60, 40)), ("dog", (3, 3, 9, 9))))
    task = make("detection")
    changed = task.load()
    counts = [task.class_counts(part.targets).sum() for part in (changed.train, changed.val)]
    assert sum(counts) == 16
    assert (
        make("detection", classes=["dog", "cat"]).load().train.targets[0, 0, 0]
        != first.train.targets[0, 0, 0]
    )


def test_bad_files_are_named(pets: Path) -> None:
    (pets / "Annotations/im01.xml").write_text(annotation())
    with pytest.raises(DataError, match=r"im01\.xml: holds no <object>"):
        make("detection").load()
    splits = make("detection", allow_empty=True).load()
    assert len(splits.train) == 8
    (pets / "Annotations/im01.xml").unlink()
    with pytest.raises(DataError, match=r"im01\.xml: not there, but its image is listed"):
        make("detection").load()
    write_mask(pets / "SegmentationClass/im02.png", np.zeros((40, 61), np.uint8))
    with pytest.raises(DataError, match=r"im02\.png: the mask is 61x40, its image 60x40"):
        make("segmentation").load()
    (pets / "JPEGImages/im03.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"im03\.jpg: not a readable image"):
        make("segmentation").load()


def test_no_data_found(data_dir: Path) -> None:
    with pytest.raises(DataError, match=r"looked for VOCdevkit/VOC2012/ImageSets in HARNESS_DATA_DIR"):
        load_task(TaskConfig(name="voc_detection")).load()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dataset": "Pets"}, "task.options.classes must name the objects of Pets; only those of VOC2007"),
        ({"classes": ["cat", "cat"]}, "task.options.classes must be different names, at least one"),
        ({"classes": [1, 2]}, r"task.options.classes must hold names, got \[1, 2\]"),
    ],
)
def test_options(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_task(TaskConfig(name="voc_detection", options=options))


@pytest.mark.data
def test_blood_cells(real_data_dir: Path) -> None:
    task = load_task(TaskConfig(name="voc_detection", image_size=96, options={"dataset": "BCCD"}))
    assert isinstance(task, voc_task.VocTask)
    if task.where() is None:
        pytest.skip("HARNESS_DATA_DIR holds no VOCdevkit/BCCD")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        splits = task.load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [263, 29, 72]
    assert task.class_names == ("RBC", "WBC", "Platelets")
    boxes = np.concatenate([part.targets.reshape(-1, 5) for part in (splits.train, splits.val, splits.test)])
    boxes = boxes[boxes[:, 0] >= 0]
    assert sum("without area dropped" in str(w.message) for w in told) == 2
    low, high = boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2
    assert low.min() >= -1e-6
    assert high.max() <= 1 + 1e-6
    assert np.bincount(boxes[:, 0].astype(int)).tolist() == [4153, 372, 361]
