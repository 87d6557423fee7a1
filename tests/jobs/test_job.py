"""Whole jobs on a real cluster: every clip once, with the tokens that the model by hand gives."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import vidtok
from pipeline.commands import main
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.decode import ClipRule, Decoder
from pipeline.errors import DatasetMismatch
from pipeline.job.driver import run
from pipeline.operations.status import status
from pipeline.records import Sample
from pipeline.storage.store import Store
from tests.jobs.conftest import (
    VIDEOS,
    Silence,
    committed_rows,
    job,
    output_of,
    tokenized,
)
from tests.pipeline.in_process import without_ray

Undisturbed = tuple[list[str], pa.Table]


def test_a_clip_has_the_tokens_that_the_model_by_hand_gives(undisturbed: Undisturbed) -> None:
    _, rows = undisturbed
    rule = ClipRule(frames=5, height=32, width=40, fps=8.0, short="drop")
    fsq = vidtok.load("vidtok_fsq_causal_488_262144_tiny")
    kl = vidtok.load("vidtok_kl_causal_488_8chn_tiny")
    path = VIDEOS / "hiker_tiny.mp4"
    with Decoder(rule) as decoder:
        sample = Sample(key="hiker_tiny", video=str(path), video_name=path.name)
        clips = [frames for _, frames in decoder.decode(sample, "u") if frames is not None]
    mine = rows.filter(pa.compute.equal(rows["key"], "hiker_tiny")).to_pylist()
    assert len(mine) == len(clips) > 4, "more than one batch"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row, frames in zip(mine, clips, strict=True):
            video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
            indices = np.frombuffer(row["fsq"], "<u4").reshape(row["fsq_shape"])
            assert row["fsq_shape"] == [2, 4, 5]
            np.testing.assert_array_equal(indices, fsq.encode(video).indices[0])
            encoded = kl.encode(video)
            assert row["kl_shape"] == [8, 2, 4, 5]
            mean = np.frombuffer(row["kl"], "<f2").reshape(row["kl_shape"])
            logvar = np.frombuffer(row["kl_logvar"], "<f2").reshape(row["kl_shape"])
            np.testing.assert_allclose(mean, encoded.mean[0], rtol=1e-3, atol=2e-3)
            np.testing.assert_allclose(logvar, encoded.logvar[0], rtol=1e-3, atol=2e-3)
            assert row["caption"] == "about hiker_tiny"
            assert row["clip_id"] == f"{row['unit']}/hiker_tiny/{row['clip_index']}"
    finally:
        torch.set_num_threads(threads)


def test_running_again_does_nothing_and_says_so(
    undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, cluster: str
) -> None:
    tars, rows = undisturbed
    output = Path(tars[0]).parents[1] / "out"
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    monkeypatch.setattr("pipeline.cluster.connect", lambda: pytest.fail("Ray was started"))
    progress = Silence()
    summary = run(job(tars, output), progress)
    assert summary.exit_code == 0
    assert summary.lines()[0] == f"nothing to do: 4 units are committed in {output}"
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert after == before
    assert committed_rows(output).equals(rows)


def test_another_clip_rule_is_refused_before_any_work(undisturbed: Undisturbed) -> None:
    tars, rows = undisturbed
    output = Path(tars[0]).parents[1] / "out"
    with pytest.raises(DatasetMismatch, match=r"clip\.fps: 8\.0 in the dataset, 4\.0 in this run"):
        run(job(tars, output, clip={**job(tars, output).clip.model_dump(), "fps": 4.0}), Silence())
    assert committed_rows(output).equals(rows)


def test_what_is_left_behind_reads_without_this_package(undisturbed: Undisturbed) -> None:
    tars, rows = undisturbed
    output = Path(tars[0]).parents[1] / "out"
    counted = duckdb.sql(f"SELECT count(*) FROM '{output}/data/*/*.parquet'").fetchall()
    assert counted == [(rows.num_rows,)]
    assert (output / "README.md").read_text().count("| `fsq` |") == 1
    told = status(Store(str(output)))
    values = told.to_dict()
    assert (values["units"], values["clips_written"], values["problems"]) == (4, rows.num_rows, [])
    assert any(line.startswith("clips ") for line in told.lines())
    assert told.exit_code == 0
    [summary] = output.glob("reports/*/summary.json")
    assert json.loads(summary.read_text())["exit_code"] == 0


def test_a_reader_written_from_the_format_alone(undisturbed: Undisturbed) -> None:
    """`docs/reference/format.md` and nothing of this package: parts that count, their numbers."""
    import pyarrow.parquet as pq

    tars, rows = undisturbed
    root = Path(tars[0]).parents[1] / "out"
    manifest = max((root / "manifest").iterdir())
    paths = [p["path"] for unit in pq.read_table(manifest)["parts"].to_pylist() for p in unit]
    for record in sorted((root / "log").iterdir()):
        if record.stem > manifest.stem:
            units = json.loads(record.read_text())["units"]
            paths += [part["path"] for unit in units for part in unit["parts"]]
    head = json.loads((root / "dataset.json").read_text())
    levels = head["identity"]["tokenizers"]["fsq"]["facts"]["levels"]
    count = 0
    for path in paths:
        table = pq.read_table(root / path)
        columns = json.loads(table.schema.metadata[b"vidtok"])["tokenizers"]
        assert columns == head["tokenizers"]
        for row in table.to_pylist():
            count += 1
            index = np.frombuffer(row["fsq"], "<u4").reshape(row["fsq_shape"]).astype(np.int64)
            digits = [index // int(np.prod(levels[:i])) % n for i, n in enumerate(levels)]
            codes = np.stack([(d - n // 2) / (n // 2) for d, n in zip(digits, levels, strict=True)])
            model = vidtok.load("vidtok_fsq_causal_488_262144_tiny") if count == 1 else None
            if model is not None:
                by_index = model.decode_indices(torch.from_numpy(index)[None])
                by_code = model.decode(torch.from_numpy(codes)[None].float())
                assert torch.equal(by_index, by_code)
    assert count == rows.num_rows


@pytest.mark.s3
def test_two_drivers_share_one_output(
    undisturbed: Undisturbed, s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other driver did the same units earlier, with the same bits."""
    tars, rows = undisturbed
    without_ray(monkeypatch)
    config = job(
        tars[2:],
        s3_store.uri,
        output__storage_options=dict(s3_store.storage_options),
        commit__log_every_s=3600.0,
    )
    names: list[str] = []

    def other_driver() -> None:
        """Commit all units while this driver has clips, and nothing in the log."""
        theirs = output_of(tars)
        units = [u for u in read_manifest(theirs).units() if set(u.sources) & set(tars[2:])]
        for part in (part for unit in units for part in unit.parts):
            s3_store.write(part.path, theirs.read(part.path))
        log = CommitLog(s3_store, fingerprint=read_dataset(theirs).fingerprint, run="other")
        names.extend(log.append(units).ours)

    summary = tokenized(config, other_driver)
    assert len(names) == 2
    assert (summary.done.units, summary.lost_race) == (0, 2)
    assert "2 of them by another driver during this run" in "\n".join(summary.lines())
    mine = committed_rows(s3_store)
    assert mine.equals(rows.filter(pc.is_in(rows["unit"], pa.array(names))))
    assert mine.num_rows > 0


def test_a_bad_configuration_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`jobs/` holds scripts of this command; `test_commands` runs them."""
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(job("nowhere/*.mp4", tmp_path / "out").public()))
    cases = (
        ("clip.frames=16", "clip.frames = 16: vidtok_fsq_causal_488_262144_tiny takes 1 + 4k"),
        ("clip.fps=8", "nowhere/*.mp4: matches no file"),
    )
    monkeypatch.setattr("pipeline.cluster.connect", lambda: pytest.fail("Ray was started"))
    for override, text in cases:
        assert main(["tokenize", str(config), override]) == 2
        errors = capsys.readouterr().err
        assert text in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
