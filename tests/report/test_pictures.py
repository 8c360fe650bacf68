import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.report import html
from harness.report.pictures import PALETTE, picture, read

BOX = [0.5, 0.5, 0.5, 0.25]


def boxes(names: tuple[str, ...] = ("cat", "dog")) -> dict[str, Any]:
    """Two grey pictures: a dog and a difficult cat are there; a dog is found surely, a cat hardly."""
    targets = np.full((2, 2, 5), -1.0, np.float32)
    targets[0, 0], targets[1, 0] = [1, *BOX], [-2, *BOX]
    predictions = np.zeros((2, 3, 6), np.float32)
    predictions[0, 0] = [1, 0.91, 0.25, 0.375, 0.75, 0.625]
    predictions[1, 0] = [0, 0.12, 0, 0, 1, 1]
    return {
        "kind": np.array("detection"),
        "class_names": np.array(names),
        "images": np.full((2, 8, 8, 3), 90, np.uint8),
        "targets": targets,
        "predictions": predictions,
    }


def masks() -> dict[str, Any]:
    targets = np.zeros((1, 8, 8), np.uint8)
    targets[0, :4], targets[0, 7] = 2, 255
    return {
        "kind": np.array("segmentation"),
        "class_names": np.array(["background", "cat", "dog"]),
        "images": np.full((1, 8, 8, 3), 90, np.uint8),
        "targets": targets,
        "predictions": np.ones((1, 8, 8), np.int64),
    }


def test_a_row_of_truth_and_a_row_for_each_method() -> None:
    svg = picture({"fedavg <1>": boxes(), "rpn": boxes()}, key="k").svg
    assert svg.count("<image ") == 6
    assert re.findall(r'font-weight="600"[^>]*>([^<]*)<', svg) == ["Truth", "fedavg &lt;1&gt;", "rpn"]
    # Of 136 units: the box from 34 to 102, and the score of what is sure; the unsure one is not drawn.
    drawn = f'x="34.0" y="51.0" width="68.0" height="34.0" fill="none" stroke="{PALETTE[1]}"'
    assert svg.count(drawn) == 3
    assert svg.count(">.91</text>") == 2
    assert ".12" not in svg
    # The difficult cat, once, on its seam and in its colour.
    assert svg.count("stroke-dasharray") == 2
    assert svg.count(">cat</text>") == svg.count(">dog</text>") == 1


def test_many_classes_are_named_at_their_boxes() -> None:
    svg = picture({"fedavg": boxes(tuple("abcdefgh"))}, key="k").svg
    assert ">b .91</text>" in svg
    assert ">b</text>" in svg


def test_masks_colour_their_pixels() -> None:
    from harness.report.pictures import mask_cells

    shown = masks()
    (cell,) = mask_cells(shown, shown["targets"])
    pixels = decode(cell)
    grey = int(0.6 * 90 + 70)
    hue = np.array([int(PALETTE[1][i : i + 2], 16) for i in (1, 3, 5)])
    np.testing.assert_array_equal(pixels[5, 5], [grey] * 3)
    np.testing.assert_allclose(pixels[0, 0], 0.25 * grey + 0.75 * hue, atol=1)
    np.testing.assert_allclose(pixels[7, 0], 0.25 * grey + 0.75 * 255, atol=1)
    assert picture({"fedavg": shown}, key="k").svg.count("<image ") == 3


def decode(cell: str) -> np.ndarray[Any, Any]:
    import base64
    import io

    from PIL import Image

    data = re.search(r'base64,([^"]+)"', cell)
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1]))))


def test_pages_show_them(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run("fedavg")
    np.savez_compressed(folder / "predictions.npz", **boxes())
    write_run("rpn", digest="bbbbbbbb")
    text = html.write(folder.parent, out=tmp_path / "out").read_text()
    assert text.count("<h3>Predictions</h3>") == 1
    assert text.count("data:image/png;base64,") == 4
    (folder / "predictions.npz").write_bytes(b"PK damaged")
    with pytest.warns(UserWarning, match=r"predictions\.npz: left out"):
        assert read(folder) is None
