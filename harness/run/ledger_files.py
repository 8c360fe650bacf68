"""The ledger on disk: one Parquet file per checkpoint while a run goes on, a single one when it is finished.

A file is named `<first>-<last>.parquet` after the rounds it covers and appears under that name only when
it is complete. Where files overlap (a kill while they were being joined) the longer one counts.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.cost.ledger import LEDGER_COLUMNS
from harness.run.files import replacing
from harness.types import ConfigError

LABELS = [name for name, kind in LEDGER_COLUMNS.items() if kind == "category"]


class Segment(NamedTuple):
    """One Parquet file of the ledger: rounds `first` to `last`, both included."""

    first: int
    last: int
    path: Path


def write_segment(folder: Path, frames: Sequence[pd.DataFrame], *, first: int, last: int) -> None:
    """Write the entries of rounds `first` to `last` (LEDGER_COLUMNS) as one file."""
    _write(_path(folder, first, last), [pa.concat_tables([_table(frame) for frame in frames])])


def read_ledger(folder: Path) -> pd.DataFrame:
    """Every entry under `folder` (a run's `ledger/`), LEDGER_COLUMNS, in the order it was charged.

    Raises ConfigError where rounds in between are missing.
    """
    chain, _ = _chain(_segments(folder))
    tables = [pq.read_table(segment.path, read_dictionary=LABELS, use_threads=False) for segment in chain]
    if not tables:
        return pd.DataFrame(columns=list(LEDGER_COLUMNS)).astype(LEDGER_COLUMNS)
    frame: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    for name in LABELS:
        frame[name] = frame[name].cat.set_categories(sorted(frame[name].cat.categories))
    return frame.astype(LEDGER_COLUMNS)


def compact(folder: Path) -> None:
    """Join all files into one; each keeps its own row group, so memory stays at one segment."""
    chain, redundant = _chain(_segments(folder))
    if len(chain) > 1:
        whole = _path(folder, chain[0].first, chain[-1].last)
        _write(whole, (table for segment in chain for table in _row_groups(segment.path)))
        redundant = [*chain, *redundant]
    for segment in redundant:
        segment.path.unlink()


def cut(folder: Path, next_round: int) -> None:
    """Drop every entry of `next_round` and later. Raises ConfigError where an earlier round is missing."""
    segments = _segments(folder)
    for segment in segments:
        if segment.first >= next_round:
            segment.path.unlink()
    chain, redundant = _chain([segment for segment in segments if segment.first < next_round])
    for segment in redundant:
        segment.path.unlink()
    reach = chain[-1].last + 1 if chain else 0
    if reach < next_round:
        raise ConfigError(
            f"{folder}: entries of rounds {reach} to {next_round - 1} are missing, which the checkpoint "
            "builds on; run.force=true starts again from round 0"
        )
    if reach > next_round:
        _shorten(chain[-1], next_round)


def _shorten(segment: Segment, next_round: int) -> None:
    earlier = (table.filter(pc.less(table["round"], next_round)) for table in _row_groups(segment.path))
    _write(_path(segment.path.parent, segment.first, next_round - 1), earlier)
    segment.path.unlink()


def _segments(folder: Path) -> list[Segment]:
    found = []
    for path in folder.glob("*.parquet"):
        if match := re.fullmatch(r"(\d+)-(\d+)\.parquet", path.name):
            found.append(Segment(int(match[1]), int(match[2]), path))
    return sorted(found)


def _chain(segments: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
    """The files that cover each round once, and those that repeat rounds of a longer one."""
    chain: list[Segment] = []
    redundant: list[Segment] = []
    reach = -1
    for segment in sorted(segments, key=lambda each: (each.first, -each.last)):
        if segment.last <= reach:
            redundant.append(segment)
        elif segment.first != reach + 1:
            raise ConfigError(
                f"{segment.path}: rounds {reach + 1} to {segment.first - 1} before it are missing; "
                "run.force=true starts again from round 0"
            )
        else:
            chain.append(segment)
            reach = segment.last
    return chain, redundant


def _path(folder: Path, first: int, last: int) -> Path:
    return folder / f"{first:06d}-{last:06d}.parquet"


def _schema() -> pa.Schema:
    # Labels as plain strings: every reader understands them, and Parquet stores them as codes anyway.
    kinds = {"category": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64()}
    return pa.schema([(name, kinds[kind]) for name, kind in LEDGER_COLUMNS.items()])


def _table(frame: pd.DataFrame) -> pa.Table:
    table = pa.Table.from_pandas(frame[list(LEDGER_COLUMNS)], preserve_index=False, nthreads=1)
    return table.cast(_schema()).replace_schema_metadata(None)


def _row_groups(path: Path) -> Iterable[pa.Table]:
    with pq.ParquetFile(path) as file:
        for index in range(file.num_row_groups):
            yield file.read_row_group(index, use_threads=False)


def _write(path: Path, tables: Iterable[pa.Table]) -> None:
    with replacing(path) as handle, pq.ParquetWriter(handle, _schema()) as writer:
        for table in tables:
            if table.num_rows:
                writer.write_table(table)
