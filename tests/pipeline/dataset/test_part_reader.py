"""Arrow runs no Python code in threads of its own, which would abort a process that ends."""

import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.dataset.log.manifest import write_manifest
from pipeline.dataset.part_reader import open_parquet
from pipeline.operations.compact import compact
from pipeline.operations.diff import diff
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import read_requests
from pipeline.operations.report.html import write_html
from pipeline.operations.retry import retry
from pipeline.operations.show import show_clip
from pipeline.operations.stats import stats
from pipeline.operations.status import status
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.storage.files import StoreReader
from pipeline.storage.range_file import RangeFile
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound
from tests.pipeline.s3 import S3Server
from tests.pipeline.units import parquet_bytes

READERS: dict[str, Callable[[Store], Any]] = {
    "status": status,
    "stats": lambda store: stats(store, codes=True),
    "report": lambda store: write_html(store, "/dev/null"),
    "show": lambda store: show_clip(store, _clip(store)),
    "diff": lambda store: diff(store, store),
    "verify": verify,
    "retry": lambda store: retry(store, ["corrupt"]),
    "compact": lambda store: compact(store, small_share=1.0),
    "vacuum": vacuum,
    "forget": lambda store: forget(store, read_requests(["k0", "bad0"], ())),
    "search": lambda store: verify(store, sample=0, forgotten=True),
    "sample": lambda store: pipeline.open(store.uri, **_options(store)).sample(4),
    "batches": lambda store: list(
        TokenDataset(pipeline.open(store.uri, **_options(store)), ["fsq", "kl"], 2)
    ),
    "checkpoint": write_manifest,
}


def _clip(store: Store) -> str:
    [row] = pipeline.open(store.uri, **_options(store)).sample(1)
    return str(row["clip_id"])


def _options(store: Store) -> dict[str, Any]:
    return {"storage_options": store.storage_options}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of threads that read Python files; "Dummy-…" are threads that Python did not start."""
    names: list[str] = []

    def spy(kind: type[StoreReader | RangeFile]) -> None:
        real = kind.read

        def read(self: Any, size: int = -1) -> bytes:
            names.append(threading.current_thread().name)
            return real(self, size)

        monkeypatch.setattr(kind, "read", read)

    spy(StoreReader)
    spy(RangeFile)
    return names


@pytest.mark.parametrize("name", READERS)
def test_only_threads_of_python_read_python_files(
    store: Store, calls: list[str], name: str
) -> None:
    sound(store)
    calls.clear()
    READERS[name](store)
    assert not [thread for thread in calls if thread.startswith("Dummy")]


def test_the_spy_sees_threads_of_arrow(store: Store, calls: list[str]) -> None:
    [record, *_] = sound(store)
    with store.open(record.parts[0].path) as file:
        pq.read_table(file)
    assert [thread for thread in calls if thread.startswith("Dummy")]


@pytest.mark.s3
def test_columns_of_row_groups_come_in_few_requests(s3: S3Server, s3_store: Store) -> None:
    table = pa.table({name: [n] * 6 for n, name in enumerate("abcd")})
    data = parquet_bytes(table, row_group_size=2)
    s3_store.write("table.parquet", data)
    asked: list[str] = []
    with (
        s3.faults.rule(lambda environ: asked.append(environ["HTTP_RANGE"])),
        open_parquet(s3_store, "table.parquet", num_bytes=len(data)) as parquet,
    ):
        assert len(asked) == 1, "the footer"
        assert parquet.read_row_group(1, ["b", "c"]) == table.slice(2, 2).select(["b", "c"])
        assert len(asked) == 2
        assert parquet.read(["a", "d"]) == table.select(["a", "d"])
        assert parquet.read_row_groups([0, 2]) == pa.concat_tables([table[:2], table[4:]])


@pytest.mark.s3
def test_errors_of_the_store_stay_its_errors(s3: S3Server, s3_store: Store) -> None:
    [record, *_] = sound(s3_store)
    part = record.parts[0]
    with (
        open_parquet(s3_store, part.path, num_bytes=part.bytes) as parquet,
        s3.faults.times("refuse_503", 999, method="GET"),
        pytest.raises(pipeline.errors.StoreError, match=part.path),
    ):
        parquet.read()
    with (
        pytest.raises(pipeline.errors.StoreError, match="missing"),
        open_parquet(s3_store, "data/none.parquet", num_bytes=9),
    ):
        pass
