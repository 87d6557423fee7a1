"""Mutated lists through planning and reading: each is refused in a line, or gives its outcomes."""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.source import ListConfig, VideoSource
from pipeline.errors import ConfigError, StoreError
from pipeline.quarantine import REASONS
from pipeline.records import Sample, to_json
from pipeline.sources.lists import cut_list
from pipeline.sources.planning import rows_unit
from pipeline.sources.reader import SampleReader
from tests.fuzz.mutations import MUTATIONS, Mutation, mutate

_ROWS = 30
_MAX_MESSAGE = 1000
_PIECES = (b"\0", b'"', b"\n", b"\xff\xfe", b"[" * 500, b"9" * 5000, b",", b"1e999", b"\\ud800")


def _insert(data: bytearray, draws: random.Random, _: Sequence[bytes]) -> None:
    """Insert what parsers of text trip over."""
    at = draws.randint(0, len(data))
    data[at:at] = draws.choice(_PIECES)


LIST_MUTATIONS: tuple[Mutation, ...] = (*MUTATIONS, _insert, _insert)


def lists(video: bytes) -> dict[str, list[bytes]]:
    """Return lists by suffix: of names, of videos, and in each encoding of Parquet."""
    count = range(_ROWS)
    names = pa.table(
        {
            "video": ["a.mp4"] * _ROWS,
            "caption": [f"é {n}" for n in count],
            "start": [float(n) for n in count],
            "list": [[n] * 3 for n in count],
            "struct": [{"a": n, "b": "z"} for n in count],
        }
    )
    held = pa.table(
        {
            "video": [{"bytes": video, "path": "v.mp4"}] * 6,
            "caption": pa.array(["k"] * 6).dictionary_encode(),
        }
    )
    plain = pa.table(
        {
            "video": pa.array([video] * 6, pa.binary()),
            "caption": pa.array(["k"] * 6, pa.large_string()),
            "decimal": pa.array([1] * 6, pa.decimal128(38, 2)),
            "time": pa.array([0] * 6, pa.timestamp("ns", "Europe/Rome")),
        }
    )
    tables: list[tuple[pa.Table, dict[str, Any]]] = [
        (names, {}),
        (names, {"compression": "gzip", "use_dictionary": False}),
        (names, {"data_page_version": "2.0", "compression": "brotli"}),
        (names, {"column_encoding": {"caption": "DELTA_BYTE_ARRAY"}, "use_dictionary": False}),
        (held, {"row_group_size": 2}),
        (plain, {"compression": "zstd"}),
    ]
    parquet = []
    for table, settings in tables:
        out = io.BytesIO()
        pq.write_table(table, out, **settings)
        parquet.append(out.getvalue())
    found = {".parquet": parquet}
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(["video", "caption", "start"])
        writer.writerows(["a.mp4", f'a "quoted"\n, {n}', n] for n in count)
        found[suffix] = [text.getvalue().encode()]
    rows = [{"video": "a.mp4", "caption": f"é{n}", "start": n, "more": {"a": [n]}} for n in count]
    found[".jsonl"] = ["".join(json.dumps(row) + "\n" for row in rows).encode()]
    return found


def fuzz_lists(
    originals: dict[str, list[bytes]], seeds: Iterable[int], folder: Path
) -> tuple[Counter[str], list[str]]:
    """Plan and read mutants; return the outcomes of all, and what must not happen."""
    outcomes: Counter[str] = Counter()
    violations: list[str] = []
    (folder / "a.mp4").write_bytes(b"video")
    for seed in seeds:
        draws = random.Random(seed)
        suffix = draws.choice([".parquet"] * 5 + [".csv", ".tsv", ".jsonl"])
        path = folder / f"mutant{suffix}"
        path.write_bytes(mutate(originals[suffix], seed, LIST_MUTATIONS))
        config = ListConfig(
            rows_per_unit=draws.choice([2, 7, 100]), caption=draws.choice([None, "caption"])
        )
        source = VideoSource(uri=[str(path)], lists=config, max_video_mb=1)
        try:
            for rows in cut_list(str(path), config, None):
                for outcome in SampleReader(source).read(rows_unit(rows)):
                    to_json(outcome)
                    sound = isinstance(outcome, Sample)
                    outcomes["sample" if sound else outcome.reason] += 1
                    assert sound or outcome.reason in REASONS
        except (ConfigError, StoreError) as error:
            outcomes[type(error).__name__] += 1
            text = str(error)
            if str(folder) not in text or "\n" in text or len(text) > _MAX_MESSAGE:
                violations.append(f"seed {seed}: no clear line: {text!r}")
        except Exception as error:
            violations.append(f"seed {seed}: {type(error).__name__}: {error}")
        path.unlink()
    return outcomes, violations
