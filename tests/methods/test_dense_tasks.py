"""Detection and segmentation: who can, who says no, and what they leave behind."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from local_run import Play, make_config

from harness.run.describe import describe
from harness.run.driver import execute, preflight
from harness.run.method import load_method, method_names
from harness.run.runtime import LocalRuntime
from harness.types import ConfigError

SHAPES = (
    "task.options={num_train: 100, num_test: 30, image_size: 16, max_shapes: 2}",
    "partition.num_clients=3",
    "run.num_rounds=2",
    "method.lr=0.05",
    "runtime.transport=local",
)
BOXES = ("task=shapes_detection", "task.model=dense_nets:OneBox", *SHAPES)
PIXELS = ("task=shapes_segmentation", "task.model=dense_nets:Pixels", *SHAPES)
METRICS = {
    "shapes_detection": ["map50", "loss"],
    "shapes_segmentation": ["miou", "pixel_accuracy", "loss"],
}
LOGITS_ONLY = ("fedgkt", "fpl", "gfl", "images", "sl", "split_learning")


@pytest.mark.parametrize("base", [BOXES, PIXELS], ids=["boxes", "pixels"])
@pytest.mark.parametrize("method", ["centralized", "fedavg", "fedprox", "fedsgd", "local_only"])
def test_they_train_and_are_scored(play: Play, method: str, base: tuple[str, ...]) -> None:
    records = play(f"method={method}", base=base).records
    wanted = METRICS[base[0].removeprefix("task=")]
    for record in records:
        assert {f"{split}/{name}" for split in ("val", "eval") for name in wanted} <= set(record)
        assert all(0 <= record[f"eval/{name}"] <= 1 for name in wanted[:-1])
    assert records[-1]["train/loss"] < records[0]["train/loss"]


@pytest.mark.parametrize("method", LOGITS_ONLY)
@pytest.mark.parametrize("base", [BOXES, PIXELS], ids=["boxes", "pixels"])
def test_methods_on_logits_say_no(method: str, base: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"works on classification, got a \w+ task; use another method"):
        preflight(make_config([f"method={method}"], base=base))


@pytest.mark.parametrize("name", sorted(set(method_names()) - set(LOGITS_ONLY)))
def test_every_other_method_works_or_says_why_not(name: str) -> None:
    assert load_method(name).kinds == ("classification", "detection", "segmentation")
    with contextlib.suppress(ConfigError):
        preflight(make_config([f"method={name}"], base=PIXELS))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["task.model=cnn"],
            "task.model=cnn gives class logits, but task.name=shapes_detection is detection",
        ),
        (["partition=views"], "partition.name=views changes images but not where things lie in them"),
        (
            ["task.model=fcn_narrow", "task.image_size=64"],
            "task.model does not fit task.name=shapes_detection",
        ),
    ],
)
def test_settings_that_do_not_fit(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        preflight(make_config(["method=fedavg", *words], base=BOXES))


def test_classification_takes_no_detector() -> None:
    with pytest.raises(ConfigError, match=r"task.model=dense_nets:OneBox gives boxes or a class per pixel"):
        preflight(make_config(["task=digits", "task.model=dense_nets:OneBox"], base=()))


@pytest.mark.parametrize("rule", ["iid", "dirichlet", "shards", "quantity_skew"])
def test_partitions_look_at_what_an_image_shows_most(play: Play, rule: str) -> None:
    assert play("method=fedavg", f"partition={rule}", "run.num_rounds=1", base=BOXES).records


def test_a_run_reaches_its_target(play: Play) -> None:
    assert len(play("method=fedavg", "run.target=0.01", "run.num_rounds=5", base=PIXELS).records) == 1


def test_it_is_described_without_data() -> None:
    found = describe(make_config(["method=fedavg"], base=PIXELS))
    # 3 x 3 x 3 x 4 multiply-adds at each of 16 x 16 pixels.
    assert found["models"][0]["macs_forward"] == 108 * 256


def test_a_run_leaves_pictures_with_predictions(tmp_path: Path) -> None:
    cfg = make_config(["method=fedavg", f"run.results_dir={tmp_path}"], base=PIXELS)
    summary = execute(cfg, runtime=LocalRuntime())
    assert summary["best"].keys() == {"round", "val/miou", "eval/miou"}
    folder = tmp_path / cfg.run_id
    with np.load(folder / "predictions.npz") as shown:
        assert (str(shown["kind"]), shown["class_names"].tolist()[:2]) == (
            "segmentation",
            ["background", "rectangle"],
        )
        assert shown["images"].shape == (8, 16, 16, 3)
        assert shown["targets"].shape == shown["predictions"].shape == (8, 16, 16)
        assert shown["predictions"].max() < 4
    # Clients hold images that show a class, and each image shows at least one.
    stored = json.loads((folder / "partition.json").read_text())
    counts = np.array(stored["label_counts"])
    assert counts.shape == (3, 4)
    assert (counts[:, 0] == 0).all()
    assert (counts.sum(axis=1) >= stored["sizes"]).all()
    assert (counts.max(axis=1) <= stored["sizes"]).all()
