"""What the benchmarks compute from what they record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vidtok
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checks
from benchmarks.gpu.report import Report
from benchmarks.gpu.speed import Speed
from benchmarks.gpu.ways import OURS, Setup
from benchmarks.operations import Operations, counted, table
from benchmarks.waiting import waited
from pipeline.job.metrics.metrics import DECODE, ROWS, TOKENIZE, WORKER_SECONDS
from vidtok.presets import named_config

Event = tuple[float, str, float, dict[str, str]]


def _row(at: float, stage: str) -> Event:
    return at, ROWS.name, 1, {"stage": stage}


def _spent(until: float, seconds: float, stage: str, state: str) -> Event:
    return until, WORKER_SECONDS.name, seconds, {"stage": stage, "state": state}


def test_waiting_counts_from_the_first_row_and_apart_while_rows_lie_ready() -> None:
    events = [
        _spent(12.0, 12.0, TOKENIZE, "waiting"),  # 10 to 12 counts, and a row lies ready
        _spent(15.0, 3.0, TOKENIZE, "busy"),
        _spent(17.0, 2.0, TOKENIZE, "waiting"),  # nothing ready until 16.5
        _spent(20.0, 3.0, TOKENIZE, "busy"),
        _spent(30.0, 10.0, TOKENIZE, "waiting"),  # after the last row
        _spent(20.0, 20.0, DECODE, "waiting"),
        _row(10.0, DECODE),
        _row(15.0, TOKENIZE),
        _row(16.5, DECODE),
        _row(20.0, TOKENIZE),
    ]
    assert waited(events) == (pytest.approx(0.4), pytest.approx(0.25))


def test_all_parts_of_the_gpu_benchmark_run_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--device", "cpu", "--size", "16", "--quick", "--only-ours"]
    assert gpu.main([*more, "--minutes", "9", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    sections = {row["section"].partition(" of ")[0] for row in rows}
    assert sections == {
        *("machine", "correctness", "peak", "encode", "decode", "kernels", "layouts"),
        "training step",
    }
    for row in rows:
        assert row["section"] not in ("encode", "decode") or row["tflop_per_clip"] > 0
    assert all(json.loads(path.read_text()) for path in tmp_path.glob("trace-*.json"))
    assert (tmp_path / "tables.md").read_text() in capsys.readouterr().out


def test_without_time_the_gpu_benchmark_lists_what_it_leaves_out(tmp_path: Path) -> None:
    gpu.main(
        ["--device", "cpu", "--quick", "--only-ours", "--minutes", "0", "--out", str(tmp_path)]
    )
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    left_out = [row["what"] for row in rows if row["section"] == "not run"]
    assert "layouts" in left_out
    assert any(what.startswith("check: ") for what in left_out)


def test_a_failed_check_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "NEAR", 0.0)
    more = ["--device", "cpu", "--size", "16", "--quick", "--check", "--out", str(tmp_path)]
    assert gpu.main(more) == 1


def test_memory_that_is_too_small_is_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    report = Report(tmp_path / "rows.jsonl", 1)
    setup = Setup(torch.device("cpu"), 16, True, None, tmp_path)
    monkeypatch.setattr(vidtok.Tokenizer, "encode", encode)
    speed = Speed(report, setup, {"float32": 1.0})
    for direction in ("encode", "decode"):
        speed.cell(direction, "vidtok_fsq_causal_488_32768_v1_1", "float32", 1, [OURS])
    assert report.rows[0]["clips_per_s"] == "out of memory"
    assert report.rows[1]["clips_per_s"] > 0


def test_operations_are_those_of_a_convolution_by_hand() -> None:
    config = replace(named_config("vidtok_fsq_causal_488_32768"), ch=8, num_res_blocks=1)
    fused, found = (
        counted(config, 2, 64, torch.float16, fused=fused)["encode"] for fused in (True, False)
    )
    [(shape, calls)] = [
        each for each in found.convolutions.items() if each[0].weight == (16, 8, 3, 3)
    ]
    assert (shape.x, calls) == ((2 * 20, 8, 32, 32), 1)
    norms = found.kinds["layer_norm"]
    assert norms.tflop == 0
    assert norms.largest == 2 * 20 * 64 * 64 * 8
    assert "| encode | layer_norm |" in table({"encode": found})
    # One pass reads x and writes the result; attention's norm has no activation and stays.
    assert fused.kinds["fused norms"].calls == norms.calls - 1
    assert "SiLU" not in fused.kinds
    assert list(fused.convolutions) == list(found.convolutions)
    assert _gigabytes(fused) < _gigabytes(found)


def _gigabytes(operations: Operations) -> float:
    return sum(count.gigabytes for count in operations.kinds.values())
