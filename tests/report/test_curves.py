"""Curves averaged by hand, and SVG that can stand in a page."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from harness.report import curves, load, tables
from harness.report.frames import DRAWN


def curve(*points):
    x, y = zip(*points, strict=True)
    return np.array(x, dtype=float), np.array(y, dtype=float)


def test_rounds_are_averaged_where_all_seeds_were_evaluated():
    mean = curves.mean_curve(
        [curve((1, 0.2), (2, 0.4), (4, 0.8)), curve((1, 0.4), (3, 0.5), (4, 0.6))], rounds=True
    )
    assert mean.x.tolist() == [1, 4]
    assert mean.mean == pytest.approx([0.3, 0.7])
    assert mean.std == pytest.approx([0.2 / np.sqrt(2)] * 2)


def test_costs_are_averaged_by_interpolation_over_the_common_range():
    mean = curves.mean_curve([curve((2, 0.0), (6, 0.4)), curve((3, 0.5), (9, 0.5))], rounds=False)
    assert (mean.x[0], mean.x[-1]) == (3, 6)
    assert np.all(np.diff(mean.x) > 0)
    assert mean.mean[0] == pytest.approx((0.1 + 0.5) / 2)
    assert mean.mean[-1] == pytest.approx((0.4 + 0.5) / 2)


def test_seeds_without_a_common_range_become_one_point():
    mean = curves.mean_curve([curve((1, 0.2)), curve((3, 0.4))], rounds=False)
    assert (mean.x.tolist(), mean.mean.tolist()) == ([2.0], [pytest.approx(0.3)])


def test_one_seed_has_no_band():
    assert not curves.mean_curve([curve((1, 0.2), (2, 0.3))], rounds=False).std.any()


def test_curves_of_a_task(write_run):
    write_run(seed=0, val=(0.3, None, 0.5))
    results = load(write_run(seed=1, val=(0.5, 0.6, 0.7)).parent)
    (found,) = curves.curves_of(results, task="digits", axis="round").values()
    assert found.x.tolist() == [1, 3]  # rounds completed; test is val - 0.1
    assert found.mean == pytest.approx([0.3, 0.5])
    (found,) = curves.curves_of(results, task="digits", axis="bytes").values()
    assert (found.x[0], found.x[-1]) == (30, 90)


def test_pareto_front():
    costs, values = [3, 1, 2, 2, 5, 1], [0.7, 0.5, 0.4, 0.6, 0.7, 0.3]
    assert curves.pareto_front(costs, values) == [1, 3, 0]


def test_styles_differ_and_stay():
    names = [f"m{i:02}" for i in range(20)]
    styles = curves.styles_of(names)
    assert len({(s.colour, s.dash, s.marker) for s in styles.values()}) == 20
    assert curves.styles_of(names[::-1]) == styles
    assert len({s.colour for s in list(styles.values())[:7]}) == 7


@pytest.fixture(scope="module")
def pictures(study):
    results = load(study)
    found = curves.accuracy_pictures(results, task="digits", key="t0")
    table = tables.comparison(results)
    found += [curves.pareto_picture(table, axis=axis, key=f"p-{axis}") for axis in ("joules", "bytes")]
    return [*found, curves.label_picture(np.array([[3, 0], [1, 2]]), title="Labels", key="l")]


def test_every_picture_is_an_accessible_svg_with_its_own_ids(pictures):
    assert len(pictures) == 1 + len(DRAWN) + 2 + 1
    ids: list[str] = []
    for picture in pictures:
        root = ET.fromstring(picture.svg)
        space = "{http://www.w3.org/2000/svg}"
        assert root.tag == f"{space}svg"
        assert root.attrib["role"] == "img"
        assert root.find(f"{space}title").text == picture.title
        assert root.find(f"{space}desc").text
        own = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
        assert set(root.attrib["aria-labelledby"].split()) <= set(own)
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', picture.svg)
        assert used or picture.key == "l"
        assert {a or b for a, b in used} <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_pictures_follow_the_page_and_load_nothing(pictures):
    for picture in pictures:
        assert "currentColor" in picture.svg
        assert curves.INK not in picture.svg
        assert curves.FAINT not in picture.svg
        assert not re.search(r'(href|src)="(?!#)', picture.svg)
        assert "<text" in picture.svg  # text stays text
        assert "DejaVu" not in picture.svg


def test_names_are_drawn_as_they_are(pictures):
    assert "fed&lt;&amp;$x_{prox" in pictures[0].svg


def test_what_costs_nothing_is_named_instead_of_drawn(pictures):
    by_key = {picture.key: picture for picture in pictures}
    assert "local" in by_key["t0-bytes"].caption
    assert "local" not in by_key["t0-round"].caption


def test_clients_that_only_wait_are_not_compared_by_cost(write_run):
    write_run("fedavg")
    folder = write_run("central", digest="bbbbbbbb", scale=0)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    waiting = [json.dumps(line | {"cost/idle_j_total": 1.0, "time/sim_s_total": 1.0}) for line in lines]
    (folder / "rounds.jsonl").write_text("\n".join(waiting))
    results = load(folder.parent)
    assert curves.idle_variants(results, task="digits") == {"central"}
    by_key = {p.key: p for p in curves.accuracy_pictures(results, task="digits", key="k")}
    assert "central" in by_key["k-round"].svg
    for axis in DRAWN:
        assert ">central<" not in by_key[f"k-{axis}"].svg
        assert "clients here: central." in by_key[f"k-{axis}"].caption
    assert curves.pareto_picture(tables.comparison(results), axis="joules", key="p") is None


def test_far_costs_are_drawn_on_a_logarithmic_axis(pictures):
    by_key = {picture.key: picture for picture in pictures}
    assert ">1 kB<" in by_key["t0-bytes"].svg
    assert ">Traffic<" in by_key["t0-bytes"].svg


def test_same_results_give_the_same_svg():
    counts = np.array([[3, 0], [1, 2]])
    first, second = (curves.label_picture(counts, title="t", key="k") for _ in range(2))
    assert first.svg == second.svg


def test_many_clients_become_a_heat_map():
    few = curves.label_picture(np.ones((30, 3), dtype=np.int64), title="t", key="k")
    many = curves.label_picture(np.ones((31, 3), dtype=np.int64), title="t", key="k")
    assert "<image" not in few.svg
    assert "data:image/png" in many.svg
    assert "area of a circle" in few.caption
    assert "31 clients hold 3 to 3 examples (median 3), a median of 3 of 3 classes each" in many.caption
