from pathlib import Path

import numpy as np
import pytest
from data_makers import annotation, write_mask, write_photograph, write_png

from harness.data.formats.voc import find_image, image_size, read_boxes, read_image, read_list, read_mask
from harness.types import DataError

PETS = ("cat", "dog")
SIZE = (60, 40)


def boxes_of(path: Path, text: str, *, allow_empty: bool = False) -> list[list[float]]:
    path.write_text(text)
    found = read_boxes(path, classes=PETS, image_size=SIZE, allow_empty=allow_empty)
    assert found.dtype == np.float32
    return [[round(float(value), 4) for value in row] for row in found]


def test_boxes_are_pixels_from_1_both_ends_included(tmp_path: Path) -> None:
    text = annotation(("dog", (1, 1, 60, 40)), ("cat", (31, 21, 60, 40)))
    assert boxes_of(tmp_path / "a.xml", text) == [[1, 0.5, 0.5, 1, 1], [0, 0.75, 0.75, 0.5, 0.5]]


def test_difficult_boxes_are_marked(tmp_path: Path) -> None:
    text = annotation(("cat!", (1, 1, 30, 20)), ("dog!", (1, 1, 30, 20)))
    assert [row[0] for row in boxes_of(tmp_path / "a.xml", text)] == [-2, -3]


def test_boxes_end_at_the_border(tmp_path: Path) -> None:
    text = annotation(("cat", (-5, 0, 30, 90)))
    assert boxes_of(tmp_path / "a.xml", text) == [[0, 0.25, 0.5, 0.5, 1]]


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (70, 5, 90, 9)])
def test_boxes_without_area_are_dropped_with_a_warning(tmp_path: Path, box: tuple[int, ...]) -> None:
    text = annotation(("cat", box), ("dog", (1, 1, 60, 40)))
    with pytest.warns(UserWarning, match=r"a\.xml: 1 box without area dropped"):
        assert boxes_of(tmp_path / "a.xml", text) == [[1, 0.5, 0.5, 1, 1]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            annotation(),
            r"holds no <object>; take the image off its list, or set task.options.allow_empty=",
        ),
        (annotation(("cta", (1, 1, 2, 2))), r"unknown class 'cta'; did you mean cat\?"),
        (annotation(("cat", (1, 1, 2, 2)), size=(40, 60)), "its <size> is 40x60, its image 60x40"),
        (annotation(("cat", ("", 1, 2, 2))), "a box of cat lacks one of xmin, ymin, xmax, ymax"),  # type: ignore[arg-type]
        (annotation().replace(">60<", ">wide<"), "its <size> holds no whole numbers"),
        ("<annotation><object>", "not an annotation in XML"),
    ],
)
def test_bad_annotations_name_the_file(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"a\.xml: {reason}"):
        boxes_of(tmp_path / "a.xml", text)


def test_an_image_without_objects_can_be_asked_for(tmp_path: Path) -> None:
    assert boxes_of(tmp_path / "a.xml", annotation(), allow_empty=True) == []


def test_a_size_of_0_is_no_size(tmp_path: Path) -> None:
    assert len(boxes_of(tmp_path / "a.xml", annotation(("cat", (1, 1, 2, 2)), size=(0, 0)))) == 1


def test_images_are_scaled_to_squares(tmp_path: Path) -> None:
    path = write_photograph(tmp_path / "JPEGImages/a.jpg")
    assert image_size(path) == SIZE
    pixels = read_image(path, size=20)
    assert pixels.shape == (20, 20, 3)
    assert pixels.dtype == np.uint8
    # Red grows to the right as before, over all columns.
    assert np.corrcoef(pixels[10, :, 0], np.arange(20))[0, 1] > 0.99
    assert find_image(tmp_path, "a") == path


def test_images_that_cannot_be_read_name_the_file(tmp_path: Path) -> None:
    path = write_photograph(tmp_path / "JPEGImages/a.jpg")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
        read_image(path, size=20)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
        image_size(path)
    with pytest.raises(DataError, match=r"b\.jpg: no such image, but it is listed"):
        find_image(tmp_path, "b")


def test_masks_keep_class_numbers(tmp_path: Path) -> None:
    classes = np.zeros((40, 60), np.uint8)
    classes[:, :30], classes[:, 30:], classes[:4] = 1, 2, 255
    path = write_mask(tmp_path / "a.png", classes)
    mask = read_mask(path, size=10, image_size=SIZE, num_classes=3)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask[1:], np.repeat([[1, 2]], 5, axis=1).repeat(9, axis=0))
    np.testing.assert_array_equal(mask[0], np.full(10, 255))


def test_bad_masks_name_the_file(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "a.png", np.full((40, 60), 3, np.uint8))
    with pytest.raises(DataError, match=r"a\.png: the mask is 60x40, its image 40x60"):
        read_mask(path, size=10, image_size=(40, 60), num_classes=4)
    with pytest.raises(DataError, match=r"a\.png: class 3 is not one of 0\.\.2 or 255 \(void\)"):
        read_mask(path, size=10, image_size=SIZE, num_classes=3)
    write_png(path, np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: must hold a class per pixel \(mode P or L\), got mode RGB"):
        read_mask(path, size=10, image_size=SIZE, num_classes=3)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png: not a readable mask"):
        read_mask(path, size=10, image_size=SIZE, num_classes=3)


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("a  1\nb -1\n\n")
    assert read_list(path) == ["a", "b"]
    for text, reason in (("\n", "names no image"), ("a\nb\na\n", "names a twice")):
        path.write_text(text)
        with pytest.raises(DataError, match=rf"train\.txt: {reason}"):
            read_list(path)
    with pytest.raises(DataError, match=r"none\.txt: not a list of image names"):
        read_list(tmp_path / "none.txt")
