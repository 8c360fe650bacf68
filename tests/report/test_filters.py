"""What the page lets a reader leave out, as a browser shows it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from harness.report import filters, write

NAMES = ("fed<&$x_{prox", "fedavg", "local")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def run(method="fedavg", task="digits", variant=None, tags="[]"):
    return {"method": method, "task": task, "variant": variant or method, "config.log.tags": tags}


def known(page):
    return json.loads(re.search(r'id="variants">(.*?)</script>', page)[1])


def test_only_what_has_several_values_can_be_filtered():
    one = filters.controls(pd.DataFrame([run(), run()]))
    assert "checkbox" not in one
    several = filters.controls(pd.DataFrame([run(), run("pkg.mod:Own"), run(tags='["scale:smoke", "a"]')]))
    assert re.findall(r'data-kind="(\w+)" value="([^"]+)">([^<]+)', several) == [
        ("method", "fedavg", "fedavg"),
        ("method", "pkg.mod:Own", "Own"),
        ("scale", "no scale", "no scale"),
        ("scale", "smoke", "smoke"),
    ]


def test_a_variant_has_every_scale_it_ran_at_and_a_mark_of_its_own():
    rows = [run(tags='["scale:smoke"]'), run(tags='["scale:paper"]'), run("fedsgd", tags="not json")]
    told = known(filters.controls(pd.DataFrame(rows)))["digits"]
    assert told["fedavg"]["scales"] == ["paper", "smoke"]
    assert told["fedsgd"] == {"method": "fedsgd", "scales": ["no scale"], "mark": filters.mark("fedsgd")}
    assert told["fedavg"]["mark"] != told["fedsgd"]["mark"]


def test_names_cannot_end_the_script():
    evil = "</script><img src=x>"
    page = filters.controls(pd.DataFrame([run(evil, evil, evil), run()]))
    assert "<img" not in page
    assert known(page)[evil][evil]["method"] == evil


@pytest.fixture(scope="module")
def page(study, tmp_path_factory) -> Path:
    return write(study, out=tmp_path_factory.mktemp("filtered"))


def test_curves_carry_the_mark_of_their_variant(page):
    ids = re.findall(r'id="([^"]+)"', page.read_text())
    marked = [i for i in ids if f"-{filters.mark('fedavg')}-" in i]
    assert {i.rsplit("-", 1)[1] for i in marked if i.startswith("t0-round-")} == {
        "line",
        "band",
        "name",
        "key",
    }
    assert any(i.startswith("t0-pareto-bytes-") for i in marked)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_hides_what_the_address_switches_off(page):
    address = f"file://{page}#method=fedavg&task=another"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (section,) = re.findall(r"<section data-task=.*?</section>", done.stdout, re.DOTALL)
    assert 'hidden=""' not in section[: section.index(">")]
    rows = re.findall(r'<tr( hidden="")?><th scope="row">(.*?)</th>', section)
    assert {name for gone, name in rows if gone} == {"fedavg"}
    assert {name for gone, name in rows if not gone} == {"fed&lt;&amp;$x_{prox", "local"}
    lines = {name: re.search(rf'id="t0-round-{filters.mark(name)}-line"[^>]*', section)[0] for name in NAMES}
    assert {name for name, line in lines.items() if "display: none" in line} == {"fedavg"}
    runs = re.findall(r'<details [^>]*data-variant="([^"]*)"([^>]*)>', done.stdout)
    assert [name for name, rest in runs if "hidden" in rest] == ["fedavg", "fedavg"]
    assert done.stdout.count('type="checkbox"') == 3
