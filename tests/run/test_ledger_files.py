from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_maker import make_commit

from harness.cost.ledger import LEDGER_COLUMNS
from harness.run.ledger_files import compact, cut, read_ledger, write_segment
from harness.types import ConfigError


def write(folder: Path, first: int, last: int) -> None:
    write_segment(folder, [make_commit(r).ledger for r in range(first, last + 1)], first=first, last=last)


def expected(num_rounds: int) -> pd.DataFrame:
    frames = [make_commit(r).ledger for r in range(num_rounds)]
    whole = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(LEDGER_COLUMNS))
    return whole.astype(LEDGER_COLUMNS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 12), st.booleans())
def test_cut_at_any_round_leaves_exactly_the_rounds_before(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], at: int, joined: bool
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    first = 0
    for length in lengths:
        write(folder, first, first + length - 1)
        first += length
    pd.testing.assert_frame_equal(read_ledger(folder), expected(first))
    if joined:
        compact(folder)
        assert names(folder) == [f"000000-{first - 1:06d}.parquet"]
        pd.testing.assert_frame_equal(read_ledger(folder), expected(first))
    at = min(at, first)
    cut(folder, at)
    pd.testing.assert_frame_equal(read_ledger(folder), expected(at))


def test_joined_bytes_do_not_depend_on_a_cut(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for first in (0, 2, 4):
            write(tmp_path / name, first, first + 1)
        compact(tmp_path / name)
    cut(tmp_path / "b", 4)
    write(tmp_path / "b", 4, 5)
    compact(tmp_path / "b")
    whole = "000000-000005.parquet"
    assert (tmp_path / "a" / whole).read_bytes() == (tmp_path / "b" / whole).read_bytes()


def test_pieces_beside_the_joined_file_count_once(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    write(tmp_path, 2, 3)
    write(tmp_path, 0, 3)
    pd.testing.assert_frame_equal(read_ledger(tmp_path), expected(4))
    compact(tmp_path)
    assert names(tmp_path) == ["000000-000003.parquet"]


def test_a_gap_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    write(tmp_path, 3, 4)
    with pytest.raises(ConfigError, match="rounds 2 to 2 before it are missing"):
        read_ledger(tmp_path)
    with pytest.raises(ConfigError, match="entries of rounds 2 to 2 are missing"):
        cut(tmp_path, 3)


def test_rounds_without_entries(tmp_path: Path) -> None:
    empty = make_commit(0).ledger.iloc[:0]
    write_segment(tmp_path, [empty], first=0, last=0)
    pd.testing.assert_frame_equal(read_ledger(tmp_path), expected(0), check_categorical=False)


def test_the_files_are_plain_parquet(tmp_path: Path) -> None:
    write(tmp_path, 0, 1)
    frame = pd.read_parquet(tmp_path / "000000-000001.parquet")
    assert list(frame.columns) == list(LEDGER_COLUMNS)
    assert frame["submodel"].tolist() == ["width0", "width1", "width1"]
    assert frame["flops"].tolist() == [10**17, 10**17, 10**17 + 1]
