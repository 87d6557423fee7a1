"""The page says what the log and the runs' summaries say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.statistics import clip_name
from pipeline.dataset.tally import Tally
from pipeline.errors import ConfigError, StoreError
from pipeline.job.summary import Summary, write_summary
from pipeline.operations.report.page import report
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
from tests.pipeline.units import decoded_back, deliver


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def ran(store: Store, run: str, seconds: float, failed: dict[str, str] | None = None) -> None:
    tally = Tally.of(read_manifest(store))
    summary = Summary(
        output=store.uri,
        run=run,
        planned=3,
        committed_before=0,
        done=tally,
        lost_race=0,
        failed=failed or {},
        total=tally,
        seconds=seconds,
    )
    write_summary(store, summary)


def table(lines: list[str], section: str) -> list[list[str]]:
    """Return the cells of the table in a section, the head first."""
    start = lines.index(f"## {section}")
    rest = lines[start + 1 :]
    end = next((n for n, line in enumerate(rest) if line.startswith("## ")), len(rest))
    rows = [line.strip("|").split("|") for line in rest[:end] if line.startswith("|")]
    return [[cell.strip() for cell in row] for n, row in enumerate(rows) if n != 1]


def test_the_page(store: Store) -> None:
    records = sound(store)
    ran(store, "20260102T000000Z-b", 125.0, {"u-9": "x"})
    ran(store, "20260101T000000Z-a", 7.0)
    page = report(store)
    assert page.exit_code == 0
    lines = "\n".join(page.lines()).splitlines()
    assert lines[0] == f"# {store.uri}"
    assert table(lines, "Counts") == [
        ["", "came in", "kept", "filtered", "quarantined"],
        ["samples", "18", "12 (66.7 %)", "3 (16.7 %)", "3 (16.7 %)"],
        ["clips", "30", "21 (70.0 %)", "6 (20.0 %)", "3 (10.0 %)"],
    ]
    assert [row[:2] for row in table(lines, "Quarantine")[1:3]] == [
        ["corrupt", "3"],
        ["non_finite", "3"],
    ]
    assert [row[:2] for row in table(lines, "Filtered")] == [
        ["reason", "samples"],
        ["too_short", "3"],
        ["reason", "example"],
        ["---", "---"],
        *(["too_short", f"u-{n}/short0"] for n in range(3)),
    ]
    parts = [part for unit in records for part in unit.parts]
    files = {row[0]: row[1:3] for row in table(lines, "Files")[1:]}
    rows = {
        bucket: sum(part.rows for part in parts if part.bucket == bucket)
        for bucket in ("5x16x16", "9x16x32")
    }
    assert files == {
        "5x16x16": ["3", str(rows["5x16x16"])],
        "9x16x32": ["3", str(rows["9x16x32"])],
        "quarantine": ["3", "9"],
    }
    assert [row[0] for row in table(lines, "Work")[1:]] == ["commit", "decode", "tokenize"]
    assert table(lines, "Work")[2] == ["decode", "4.5 s", "4.7"]
    assert table(lines, "Runs")[1:] == [
        ["20260101T000000Z-a", "7.0 s", "3", "21", "3.0", "0", "0"],
        ["20260102T000000Z-b", "0:02:05", "3", "21", "0.2", "1", "1"],
    ]


def test_json_holds_the_same(local: Store) -> None:
    sound(local)
    ran(local, "r", 1.5)
    done = CliRunner().invoke(app, ["report", local.uri, "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["units"], found["clips_written"], found["reasons"]) == (
        3,
        21,
        {"corrupt": 3, "non_finite": 3},
    )
    sizes = [part.bytes for part in read_manifest(local).parts("5x16x16")]
    files = found["files"]["5x16x16"]
    assert files["bytes"] == sum(sizes) == files["middle"] + files["smallest"] + files["largest"]
    assert (files["smallest"], files["largest"]) == (min(sizes), max(sizes))
    assert [run["seconds"] for run in found["runs"]] == [1.5]


def test_quality_with_the_worst_clips(local: Store) -> None:
    write_log(local, [commit(local, decoded_back(deliver("a"), 30.5, None, 20.51))])
    page = report(local)
    lines = "\n".join(page.lines()).splitlines()
    assert table(lines, "Quality") == [
        ["", "clips decoded back", "mean PSNR", "decoding failed"],
        ["fsq", "2", "25.50 dB", "1"],
        ["dB, rounded down", "clips of fsq"],
        ["---:", "---:"],
        ["20", "1"],
        ["30", "1"],
        ["", "PSNR", "clips with the lowest PSNR"],
        ["---", "---:", "---"],
        ["fsq", "20.51 dB", clip_name("a/k3/0")],
        ["fsq", "30.50 dB", clip_name("a/k0/0")],
    ]
    assert page.to_dict()["psnr"]["fsq"]["clips"] == 2


def test_an_empty_dataset_and_one_that_does_not_add_up(local: Store) -> None:
    write_log(local, [])
    text = "\n".join(report(local).lines())
    assert "0 units." in text
    assert (
        "- clips: 0\n- of source: 0.0 s\n- of 0.0 s decoded kept: -\n- of 0 samples kept: -\n"
        in text
    )
    assert text.count("None.") == 7
    record = commit(local, deliver("u"))
    write_log(local, [replace(record, counts=replace(record.counts, clips_seen=99))])
    page = report(local)
    assert page.exit_code == 1
    assert "Does not add up: u: 99 clips seen" in "\n".join(page.lines())


def test_what_is_wrong(local: Store) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        report(local)
    sound(local)
    local.write("reports/r/summary.json", b"{")
    with pytest.raises(StoreError, match=r"reports/r/summary\.json: not a summary of a run"):
        report(local)
