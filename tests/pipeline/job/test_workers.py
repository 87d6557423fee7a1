"""What workers log, and how they give a unit up."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from numpy.typing import NDArray

from pipeline.dataset.log.forgotten import key_digest, source_digest
from pipeline.errors import StoreError
from pipeline.job import workers
from pipeline.job.workers import DecodeWorker, TokenizeWorker, WorkerSettings, commit_blocks
from pipeline.records import LooseFile, WorkUnit
from pipeline.stages.messages import (
    Aborted,
    BatchRow,
    Closing,
    decoded_row,
    payload_row,
    read_decoded_row,
)
from pipeline.stages.tokenize import TokenizerBroken
from pipeline.storage.store import Store
from tests.pipeline.fakes import batch_row
from tests.pipeline.job.metrics.test_metrics import VIDEOS, Recorded, decode_row, worker_settings
from tests.pipeline.job.test_summary import UNIT
from tests.pipeline.made_datasets import write_log
from tests.pipeline.units import FSQ

ROOT = Path(__file__).parents[3]


def test_a_decode_worker_starts_the_fork_server_before_its_first_unit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[str] = []
    monkeypatch.setattr(workers, "fork_server", lambda: starts.append("now"))
    DecodeWorker(worker_settings(), Recorded()).close()
    assert starts == ["now"]


def test_a_unit_whose_source_is_gone_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = DecodeWorker(worker_settings(), Recorded())
    unit = WorkUnit(unit="u", tar_uri=str(tmp_path / "gone.tar"))
    try:
        [row] = worker(decode_row(unit))
    finally:
        worker.close()
    record = read_decoded_row(row)
    assert isinstance(record, Aborted)
    gone = tmp_path / "gone.tar"
    missing = f"{gone}: missing, although it existed when the job was planned"
    assert record.reason == f"decode: StoreError: {missing}"
    [logged] = caplog.records
    assert logged.getMessage() == "u: the stage decode gives up this unit"
    assert logged.exc_info is not None
    assert logged.exc_info[0] is StoreError


def test_a_decode_worker_leaves_out_what_the_output_forgot(tmp_path: Path) -> None:
    """It reads the digests from the log records that the driver names, and reads no such file."""
    output = Store(str(tmp_path / "out"))
    log = write_log(output, [])
    log.forget([key_digest("k"), source_digest(str(tmp_path / "gone.tar"))])
    settings = worker_settings()
    at = settings.config.output.model_copy(update={"uri": output.uri})
    config = settings.config.model_copy(update={"output": at})
    worker = DecodeWorker(replace(settings, config=config, forgets=tuple(log.forgets)), Recorded())
    video = str(VIDEOS / "hiker_tiny.mp4")
    files = (LooseFile(key="k", uri=str(tmp_path / "gone.mp4")), LooseFile(key="l", uri=video))
    try:
        rows = [
            read_decoded_row(row) for row in worker(decode_row(WorkUnit(unit="u", files=files)))
        ]
        tar = WorkUnit(unit="t", tar_uri=str(tmp_path / "gone.tar"))
        [empty] = [read_decoded_row(row) for row in worker(decode_row(tar))]
    finally:
        worker.close()
    closing = rows[-1]
    assert isinstance(closing, Closing)
    assert (closing.counts.samples_forgotten, closing.counts.samples_with_clips) == (1, 1)
    assert closing.counts.imbalance() is None
    keys = {clip.key for row in rows if isinstance(row, BatchRow) for clip in row.header.clips}
    assert keys == {"l"}
    assert isinstance(empty, Closing)
    assert empty.counts.samples_read == 0


def test_a_decode_worker_waits_longer_after_each_unit_that_it_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(workers, "time", SimpleNamespace(sleep=pauses.append))
    worker = DecodeWorker(worker_settings(), Recorded())
    gone = WorkUnit(unit="u", tar_uri=str(tmp_path / "gone.tar"))
    video = VIDEOS / "hiker_tiny.mp4"
    sound = WorkUnit(unit="v", files=(LooseFile(key="k", uri=str(video)),))
    try:
        for unit in [gone] * 7 + [sound] + [gone] * 2:
            list(worker(decode_row(unit)))
    finally:
        worker.close()
    # The first of a row is not waited for: the unit may be at fault.
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_a_tokenizer_that_cannot_compute_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    class Encoder:
        column = FSQ

        def __call__(self, frames: NDArray[Any], where: str) -> None:
            shapes.append(frames.shape)
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr("pipeline.tokenizers.models.open_encoders", lambda *_: [Encoder()])
    settings = replace(worker_settings(), columns=[FSQ], digests=[""])
    with pytest.raises(RuntimeError, match="ECC"):
        TokenizeWorker(settings, Recorded())
    assert shapes == [(1, 5, 32, 40, 3)]


class Failing(TokenizeWorker):
    def __init__(self, error: Exception) -> None:
        def stage(_: object) -> None:
            raise error

        settings = worker_settings()
        no_tokenizers = settings.config.model_copy(update={"tokenizers": []})
        super().__init__(WorkerSettings(**{**vars(settings), "config": no_tokenizers}), Recorded())
        self.stage = stage  # type: ignore[assignment]


def test_a_broken_tokenizer_ends_its_process_at_the_next_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Failing(TokenizerBroken("device says no"))
    block = worker(decoded_row(batch_row(2)))
    assert b"tokenize: TokenizerBroken: device says no" in block["header"][0].as_py()
    assert worker.broken

    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended, match="1"):
        worker(decoded_row(batch_row(2)))
    assert [record.getMessage() for record in caplog.records] == [
        "u: the stage tokenize gives up this unit",
        "u: the tokenizer also fails on a black clip; this process ends and is replaced",
    ]


def test_a_commit_that_is_rejected_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closing = Closing(unit="other", digests=(), counts=UNIT.counts)
    unit = WorkUnit(unit="u", files=(LooseFile(key="k", uri="/k.mp4"),))
    outcome = commit_blocks(unit, iter([payload_row(closing)]), worker_settings())
    assert isinstance(outcome, Aborted)
    assert outcome.reason == "commit: UnitRejected: u: the closing row belongs to other"
    assert caplog.messages == ["u: the stage commit gives up this unit"]


def test_a_worker_process_logs_this_package_from_its_level_on() -> None:
    code = f"""
import logging
from {workers.__name__} import configure_logging
for level in (logging.DEBUG, logging.INFO):
    configure_logging(level)
    logging.getLogger("pipeline.stages.decode").log(level, "told at %s", level)
    logging.getLogger("pipeline.stages.decode").log(level - 1, "not told")
    logging.getLogger("library").info("not told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = done.stderr.splitlines()
    assert [line.partition(" pipeline.")[2] for line in lines] == [
        "stages.decode: told at 10",
        "stages.decode: told at 20",
    ]
    assert logging.getLevelName(10) in lines[0]
