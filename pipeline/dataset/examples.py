"""Examples of what was quarantined or filtered: a few keys of each reason, from few tables."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.tally import EXAMPLES, Tally
from pipeline.errors import StoreError, one_line
from pipeline.records import name_of
from pipeline.storage.store import Store


class Example(NamedTuple):
    """One quarantined or filtered sample, or one quarantined clip."""

    name: str
    """`unit/key`, or `unit/key/clip_index` of a clip; empty if the table cannot be read."""
    detail: str
    """What the library said, or why the table cannot be read."""


Examples = dict[str, list[Example]]
"""Reason → its examples, at most `EXAMPLES`."""


def read_examples(store: Store, tally: Tally) -> Examples:
    """Return examples of each reason that a tally counts.

    At most `EXAMPLES` tables are read for each reason. A table that cannot be read becomes an
    example without a name that says so, because counts are also useful without examples.
    """
    return {
        reason: list(_of_reason(store, reason, paths))[:EXAMPLES]
        for reason, paths in tally.tables.items()
    }


def _of_reason(store: Store, reason: str, paths: list[str]) -> Iterator[Example]:
    for path in paths:
        try:
            with open_parquet(store, path) as parquet:
                rows = parquet.read().to_pylist()
            found = [_example(row) for row in rows if row["reason"] == reason]
        except (StoreError, KeyError) as error:  # damaged, or without a column
            found = [Example("", f"{store.locate(path)}: {one_line(error)}")]
        yield from found


def _example(row: Mapping[str, Any]) -> Example:
    name = name_of(row["unit"], row["key"], row["clip_index"])
    return Example(name, str(row["detail"]))
