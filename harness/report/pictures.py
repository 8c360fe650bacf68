"""Test pictures with what networks see in them: truth in the first row, then a row for each method.

Drawn from `predictions.npz` of finished runs (harness/learning/evaluation.py, `show`) as inline SVG over
embedded images. Letters: P pictures, M boxes at most, K detections at most, S side in pixels.
"""

import base64
import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data.precision import corners
from harness.data.scores import VOID
from harness.report.curves import COLOURS, Picture
from harness.report.frames import Results
from harness.report.markup import figure
from harness.report.svg import INK
from harness.run.store import SHOWN

CELL: Final = 136
"""Side of a picture, in the SVG's units."""
GAP: Final = 8
HEAD: Final = 26
"""Height of a row's title."""
MOST_RUNS: Final = 6
"""Variants of a task whose predictions are drawn."""
LEAST_SCORE: Final = 0.3
"""Detections drawn; a score counts all of them."""
MOST_TOLD: Final = 6
"""Boxes in a picture up to which each says its score; classes up to which colours alone name them."""
LARGEST: Final = 272
"""Side in pixels up to which images are embedded as they are; twice a cell, for sharp screens."""
PALETTE: Final = tuple(colour for colour in COLOURS if colour != INK)

Shown = Mapping[str, NDArray[Any]]
"""kind, class_names, images [P, H, W, C] uint8, targets, predictions."""


def section(results: Results, runs: pd.DataFrame, *, key: str) -> str:
    """A part of a task's section as HTML, of each variant's lowest seed; empty where no run has pictures."""
    folders = {str(run_id): results.folder / str(run_id) for run_id in runs["run_id"]}
    groups: dict[bytes, dict[str, Shown]] = {}
    for run in runs.sort_values("seed").drop_duplicates("variant").to_dict("records"):
        folder = folders[str(run["run_id"])]
        shown = read(folder if folder.is_dir() else results.folder)
        if shown is not None:
            same = groups.setdefault(shown["images"].tobytes() + shown["targets"].tobytes(), {})
            if len(same) < MOST_RUNS:
                same[f"{run['variant']}, seed {run['seed']}"] = shown
    drawn = [picture(rows, key=f"{key}-shown{number}") for number, rows in enumerate(groups.values())]
    if not drawn:
        return ""
    return f'<h3>Predictions</h3><div class="pictures">{"".join(map(figure, drawn))}</div>'


def read(folder: Path) -> Shown | None:
    """What a run has to show; None where it has nothing, with a warning where its file is damaged."""
    path = folder / SHOWN
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = ("kind", "class_names", "images", "targets", "predictions")
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warnings.warn(f"{path}: left out ({' '.join(str(error).split())[:160]})", stacklevel=2)
        return None


def picture(rows: Mapping[str, Shown], *, key: str) -> Picture:
    """One figure of runs that share their pictures, by name."""
    first = next(iter(rows.values()))
    boxes = str(first["kind"]) == "detection"
    cells = box_cells if boxes else mask_cells
    lines = [("Truth", cells(first, first["targets"]))]
    if not boxes:
        lines.insert(0, ("Picture", [_image(image) for image in first["images"]]))
    lines += [(name, cells(shown, shown["predictions"])) for name, shown in rows.items()]
    count = len(first["images"])
    width, step = count * (CELL + GAP) - GAP, HEAD + CELL + GAP
    height = len(lines) * step - GAP
    body = [legend(first, list(rows.values()), width=width)]
    for number, (name, images) in enumerate(lines):
        top = number * step
        body.append(f'<text x="0" y="{top + 17}" font-weight="600" fill="currentColor">{escape(name)}</text>')
        body += [
            f'<g transform="translate({column * (CELL + GAP)} {top + HEAD})">{inner}</g>'
            for column, inner in enumerate(images)
        ]
    what = "Boxes" if boxes else "Classes of pixels"
    title = f"{what} in {count} test pictures after the last round"
    caption = _boxes_told(first) if boxes else _pixels_told(first)
    svg = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-t" font-size="13" '
        f'font-family="inherit"><title id="{key}-t">{escape(title)}: truth, {escape(", ".join(rows))}</title>'
        f"{''.join(body)}</svg>"
    )
    return Picture(key, title, caption, svg)


def _boxes_told(shown: Shown) -> str:
    told = f"Detections with a score of {LEAST_SCORE:g} or more are drawn; mAP counts all."
    return (
        f"{told} Dashed: difficult, counted neither way." if (shown["targets"][..., 0] < -1).any() else told
    )


def _pixels_told(shown: Shown) -> str:
    void = (shown["targets"] == VOID).any()
    return "Grey pixels are background" + ("; white ones void, counted neither way." if void else ".")


def legend(first: Shown, rows: Sequence[Shown], *, width: int) -> str:
    """Names of the classes that occur, with their colours, flush right in the first row's title."""
    found: set[int] = set()
    for values in (first["targets"], *(shown["predictions"] for shown in rows)):
        found |= set(_classes(first, values))
    parts, right = [], float(width)
    for label in sorted(found, reverse=True)[-2 * MOST_TOLD :]:
        name = _name(first, label)
        right -= 7.2 * len(name)
        parts.append(f'<text x="{right:.1f}" y="17" fill="currentColor">{escape(name)}</text>')
        right -= 17
        parts.append(
            f'<rect x="{right:.1f}" y="6" width="12" height="12" rx="2" fill="{_colour(first, label)}"/>'
        )
        right -= 14
    return "".join(parts)


def box_cells(shown: Shown, values: NDArray[Any]) -> list[str]:
    """Pictures under boxes: targets [P, M, 5] or predictions [P, K, 6]."""
    cells = []
    for image, rows in zip(shown["images"], values, strict=True):
        kept = [row for row in rows if row[0] != -1] if rows.shape[1] == 5 else _likely(rows)
        # The best one on top, and words above all boxes.
        marks = [_box(shown, row) for row in reversed(kept)]
        words = [_words(shown, row) for row in reversed(kept)] if len(kept) <= MOST_TOLD else []
        cells.append(_image(image) + "".join(marks + words))
    return cells


def mask_cells(shown: Shown, masks: NDArray[Any]) -> list[str]:
    """Pictures in grey under the colours of their pixels' classes, [P, S, S]."""
    cells = []
    for image, mask in zip(shown["images"], masks, strict=True):
        grey = image.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.6 + 70
        for label in np.unique(mask):
            if label:
                hue = (255,) * 3 if label == VOID else _rgb(_colour(shown, int(label)))
                where = mask == label
                grey[where] = 0.25 * grey[where] + 0.75 * np.array(hue)
        cells.append(_image(np.clip(grey, 0, 255).astype(np.uint8)))
    return cells


def _likely(rows: NDArray[Any]) -> list[NDArray[Any]]:
    return sorted((row for row in rows if row[1] >= LEAST_SCORE), key=lambda row: -float(row[1]))


def _place(row: NDArray[Any]) -> tuple[int, bool, list[float]]:
    """Class, whether difficult, and (x1, y1, x2, y2) in the cell, of a row of truth or of a detection."""
    difficult = bool(row[0] < -1)
    sides = row[2:] if len(row) == 6 else corners(row[None, 1:])[0]
    return int(-2 - row[0] if difficult else row[0]), difficult, (CELL * sides).tolist()


def _box(shown: Shown, row: NDArray[Any]) -> str:
    """A box in its class's colour on a dark seam."""
    label, difficult, (x1, y1, x2, y2) = _place(row)
    shape = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none"'
    dashes = ' stroke-dasharray="5 3"' if difficult else ""
    return (
        f'<rect {shape} stroke="#000" stroke-opacity=".55" stroke-width="4"{dashes}/>'
        f'<rect {shape} stroke="{_colour(shown, label)}" stroke-width="2.2"{dashes}/>'
    )


def _words(shown: Shown, row: NDArray[Any]) -> str:
    """The score above a detection; where colours do not tell classes apart, the name above every box."""
    label, _, (x1, y1, *_) = _place(row)
    words = [_name(shown, label)] if len(shown["class_names"]) > MOST_TOLD else []
    words += [f"{row[1]:.2f}".lstrip("0")] if len(row) == 6 else []
    text, colour = " ".join(words), _colour(shown, label)
    if not text:
        return ""
    width = 6.4 * len(text) + 6
    left, top = min(max(x1 - 1, 0), CELL - width), y1 - 14 if y1 >= 14 else y1
    ink = "#111" if sum(_rgb(colour)) > 360 else "#fff"
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="14" fill="{colour}"/>'
        f'<text x="{left + 3:.1f}" y="{top + 11:.1f}" font-size="11" fill="{ink}">{escape(text)}</text>'
    )


def _image(pixels: NDArray[np.uint8]) -> str:
    """An `<image>` that fills its cell; a large one is scaled down, and packed with loss."""
    from PIL import Image

    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)[..., :3])
    small = max(picture.size) <= LARGEST // 2
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 85}))
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = "png" if small else "jpeg"
    return (
        f'<image href="data:image/{kind};base64,{data}" width="{CELL}" height="{CELL}" '
        'preserveAspectRatio="none"/>'
    )


def _classes(shown: Shown, values: NDArray[Any]) -> list[int]:
    """Classes that occur in targets or predictions, the background left out."""
    if str(shown["kind"]) == "segmentation":
        return [int(label) for label in np.unique(values) if label not in (0, VOID)]
    rows = values.reshape(-1, values.shape[-1])
    if values.shape[-1] == 6:
        return sorted({int(label) for label in rows[rows[:, 1] >= LEAST_SCORE, 0]})
    return sorted({int(label if label >= 0 else -2 - label) for label in rows[rows[:, 0] != -1, 0]})


def _name(shown: Shown, label: int) -> str:
    names = shown["class_names"]
    return str(names[label]) if label < len(names) else f"class {label}"


def _colour(shown: Shown, label: int) -> str:
    return PALETTE[(label - (str(shown["kind"]) == "segmentation")) % len(PALETTE)]


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
