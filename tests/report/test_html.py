"""The page: well-formed, self-contained, escaped, complete."""

import re
from html.parser import HTMLParser

import pytest

from harness.report import write

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Reader(HTMLParser):
    """Checks nesting, and collects ids, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "srcset", "action", "data") and not value.startswith("#"):
                self.loads.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    """The page of the study, at a target that all reach, in place of an older one."""
    out = tmp_path_factory.mktemp("report") / "deep" / "out"
    out.mkdir(parents=True)
    (out / "report.html").write_text("an older page")
    return write(study, out=out, target=0.6)


def test_page_is_well_formed_and_loads_nothing(written):
    page = written.read_text()
    reader = read(page)
    assert written.name == "report.html"
    assert page.startswith("<!doctype html>")
    assert [load for load in reader.loads if not load.startswith("data:image/png")] == []
    assert reader.tags.count("script") == 2  # the filters, and what they have to know
    assert "eval(" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert set(re.findall(r"https?://[^\s\"<]+", page)) == {
        "http://www.w3.org/2000/svg"
    }  # a name, not a load
    assert len(reader.ids) == len(set(reader.ids))
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_page_holds_every_figure_table_and_run(written):
    reader = read(written.read_text())
    # Six curves, two Pareto plots, one partition (all runs share it).
    assert reader.tags.count("svg") == reader.tags.count("figure") == 9
    assert reader.tags.count("details") == 4 + 1
    text = " ".join(" ".join(reader.text).split())
    for told in ("3 methods on", "4 runs", "Cost to reach 60.0 % on validation", "How costs are counted"):
        assert told in text
    assert "packages.torch" in text
    assert "fewer than 5 seeds" in text
    assert "Points of reference, which exchange nothing and win nothing: local." in text


def test_the_cheapest_is_marked_and_is_no_point_of_reference(written):
    page = written.read_text()
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page)
    marked = {name: cells.count("win") for name, cells in rows if "win" in cells}
    # fed<... has the best accuracy; fedavg is cheapest on all four axes.
    assert marked == {"fed&lt;&amp;$x_{prox": 1, "fedavg": 4}


def test_writes_csv_and_markdown_and_leaves_no_temporary_file(written):
    out = written.parent
    assert sorted(p.name for p in out.iterdir()) == ["comparison.csv", "comparison.md", "report.html"]
    assert (out / "comparison.md").read_text().startswith("## digits\n")
    assert len((out / "comparison.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.filterwarnings("ignore:.*unfinished")
def test_hostile_names_are_text(write_run, tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    config = {
        "method": {"name": f"m:{evil}", evil: evil},
        "partition": {"name": evil},
        "task": {"name": evil, "model": evil},
    }
    write_run("evil", config=config)
    folder = write_run("evil", digest="bbbbbbbb", config=config | {"run": {"precision": evil}}).parent
    (folder / "evil-digits-bbbbbbbb-0" / "env.json").write_text('{"<img src=x>": "</style><img src=x>"}')
    reader = read(write(folder, out=tmp_path / "out").read_text())
    assert reader.tags.count("script") == 2
    assert "img" not in reader.tags
    assert "<script>alert(1)</script>" in " ".join(reader.text)


@pytest.mark.filterwarnings("ignore:.*unfinished")
def test_unfinished_and_unevaluated_runs_are_told_of(write_run, tmp_path):
    write_run("fedavg")
    write_run("fedavg", seed=1, val=(0.5,), finished=False)
    folder = write_run("fedsgd", digest="bbbbbbbb", val=(None, None), finished=False).parent
    text = " ".join(read(write(folder, out=tmp_path / "out").read_text()).text)
    assert "2 unfinished" in text
    assert "fedavg-digits-aaaaaaaa-1" in text
    assert "not evaluated" in text
    assert "nan" not in text.lower()
