"""A dry run tells what the job would find, and leaves no trace."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.config.job import JobConfig
from pipeline.config.source import VideoSource
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import open_dataset
from pipeline.decode import DecodeLimits, Decoder, clip_rules
from pipeline.errors import ConfigError, DatasetMismatch
from pipeline.job.config_checks import load_config
from pipeline.job.setup import open_tokenizers, planned_units
from pipeline.operations.plan.estimate import Estimate
from pipeline.operations.plan.plan import plan_job
from pipeline.operations.plan.probe import Probe, probe_unit
from pipeline.records import WorkUnit, unit_sources
from pipeline.stages.clip_filter import ClipFilter
from pipeline.stages.decode import DecodeStage, open_decoder
from pipeline.stages.messages import Closing
from pipeline.storage.store import Store
from tests.assets import VIDEOS
from tests.pipeline.s3 import S3Server
from tests.pipeline.tars import make_tar
from tests.pipeline.units import make_record

CLIP = {"frames": 5, "height": 32, "width": 40, "fps": 4.0, "short": "drop"}
FSQ, KL = "vidtok_fsq_causal_488_262144_tiny", "vidtok_kl_causal_488_8chn_tiny"
GOOD = VIDEOS / "hiker_tiny.mp4"
SHORT = VIDEOS / "odd/h264_10bits.mp4"
BROKEN = VIDEOS / "broken/text.mp4"


def tar(*videos: Path) -> bytes:
    """Return a tar of videos, and of a sample without one."""
    files = [(f"{n}.mp4", path.read_bytes()) for n, path in enumerate(videos)]
    return make_tar([*files, ("none.txt", b"no video")])


def job(uris: list[str], output: str, **changes: Any) -> JobConfig:
    values = {
        "source": {"uri": uris, "files_per_unit": 1},
        "clip": CLIP,
        "tokenizers": [
            {"name": "fsq", "model": FSQ},
            {"name": "kl", "model": KL, "logvar": True},
        ],
        "output": {"uri": output},
    }
    return JobConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars and two loose files."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.tar").write_bytes(tar(GOOD, BROKEN, SHORT))
    (folder / "b.tar").write_bytes(tar(GOOD))
    (folder / "c.tar").write_bytes(tar(SHORT, SHORT))
    for name, path in (("x.mp4", GOOD), ("y.mp4", SHORT)):
        (folder / name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(clip_rules(job(["x"], "o").clip.identity()), DecodeLimits()) as decoder:
        yield decoder


def probe(unit: WorkUnit, decoder: Decoder, seconds: float | None) -> Probe:
    source = VideoSource(uri=["unused"])
    return probe_unit(
        unit,
        decoder,
        seconds=seconds,
        source=source,
        images=False,
        clip_filter=ClipFilter(None, ()),
    )


def closings(config: JobConfig) -> list[Closing]:
    """Return what the job's own stage finds in its units."""
    found = []
    with DecodeStage(config.source, config.clip, config.decode, row_clips=4) as stage:
        for unit in planned_units(config):
            *_, closing = stage(unit)
            assert isinstance(closing, Closing)
            found.append(closing)
    return found


def test_all_that_a_job_would_find(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus)], str(tmp_path / "out"))
    truth = closings(config)
    found = plan_job(config, probes=5, seconds=60, price_cpu_hour=2.0)
    assert (found.units.planned, found.units.committed) == (5, 0)
    assert (found.units.left_tars, found.units.left_runs) == (3, 2)
    clips = sum(closing.counts.clips_written for closing in truth)
    assert found.estimates.samples == Estimate(sum(c.counts.samples_read for c in truth), 0.0)
    assert found.estimates.clips == Estimate(clips, 0.0)
    # 2 x 4 x 5 cells of 4 bytes; of 8 channels in 2 bytes, mean and log-variance.
    assert found.estimates.cell_bytes == Estimate(clips * 40 * (4 + 8 * 2 * 2), 0.0)
    sizes = [len(path.read_bytes()) for path in (GOOD, BROKEN, SHORT)]
    assert found.estimates.video_bytes == Estimate(3 * sizes[0] + sizes[1] + 4 * sizes[2], 0.0)
    lost = [record for closing in truth for record in closing.quarantined]
    assert sorted(found.quarantined + found.filtered, key=str) == sorted(lost, key=str)
    assert {q.reason for q in found.quarantined} == {"not_a_video", "no_video"}
    decoded_s = sum(closing.counts.microseconds_decoded for closing in truth) / 1e6
    assert sum(probe.seconds_seen for probe in found.probed) == pytest.approx(decoded_s)
    assert sum(probe.seconds_kept for probe in found.probed) == pytest.approx(clips * 5 / 4)
    assert found.estimates.decode_hours is not None
    assert found.estimates.tokenize_hours is not None
    assert found.estimates.decode_hours.value > 0
    assert found.estimates.decode_cost == found.estimates.decode_hours.times(2.0)
    assert [probe.cut_short for probe in found.probed] == [0] * 5
    assert any(f"measured on {found.device_name}" in line for line in found.lines())
    assert not (tmp_path / "out").exists()


def test_what_a_filter_would_keep(corpus: Path, tmp_path: Path) -> None:
    first, second, third = "motion > 1", "luma < 0.57", "source_height >= 100"
    clip = {**CLIP, "measure": ["motion", "luma"], "filter": f"{first} and {second} and {third}"}
    config = job([str(corpus)], str(tmp_path / "out"), clip=clip)
    truth = closings(config)
    found = plan_job(config, probes=5, seconds=60)
    dropped = sum((Counter(closing.dropped) for closing in truth), Counter[str]())
    assert sum((probe.dropped for probe in found.probed), Counter[str]()) == dropped
    assert dropped[first] > 0 < dropped[second]
    kept = sum(closing.counts.clips_written for closing in truth)
    seen = sum(closing.counts.clips_seen for closing in truth)
    assert 0 < kept < seen
    assert found.estimates.clips == Estimate(kept, 0.0)
    lost = [record for closing in truth for record in closing.quarantined]
    assert sorted(found.quarantined + found.filtered, key=str) == sorted(lost, key=str)
    lines = [line.split(maxsplit=1) for line in found.lines()]
    assert ["clips", f"{kept} of {seen} kept"] in lines
    assert [text for label, text in lines if label == "dropped"][:3] == [
        f"{dropped[first]} clips by {first}",
        f"{dropped[second]} clips by {second}",
        f"0 clips by {third}",
    ]


def test_a_draw_of_each_kind_stands_for_the_rest(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus)], str(tmp_path / "out"))
    found = plan_job(config, probes=2, seconds=0)
    assert [probe.unit.split("-")[0] for probe in found.probed] == ["b", "y"]
    assert found.estimates.samples == Estimate(3 * 2 + 2 * 1, None)
    assert (
        found.estimates.clips
        is found.estimates.decode_hours
        is found.estimates.tokenize_hours
        is None
    )
    assert plan_job(config, probes=0).probed == []


def test_what_the_log_covers_is_taken_away(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus)], str(tmp_path / "out"))
    store = Store(config.output.uri)
    head = open_dataset(store, open_tokenizers(config).dataset(config))
    log = CommitLog(store, fingerprint=head.fingerprint)
    units = planned_units(config)
    records = [make_record(unit.unit, sources=unit_sources(unit)) for unit in units]
    log.append(records[1:])
    before = {file.path: store.read(file.path) for file in store.files()}
    found = plan_job(config, probes=5, seconds=0)
    assert (found.units.planned, found.units.committed) == (5, 4)
    assert (found.units.left_tars, found.units.left_runs) == (1, 0)
    assert [probe.unit for probe in found.probed] == [units[0].unit]
    assert {file.path: store.read(file.path) for file in store.files()} == before

    log.append(records)
    found = plan_job(config)
    assert (found.units.committed, found.probed) == (5, [])
    assert found.lines() == [f"nothing to do: 5 units are committed in {store.uri}"]


def test_another_dataset_in_the_output_is_refused_as_by_the_job(
    corpus: Path, tmp_path: Path
) -> None:
    config = job([str(corpus)], str(tmp_path / "out"))
    open_dataset(Store(config.output.uri), open_tokenizers(config).dataset(config))
    other = config.model_copy(update={"clip": config.clip.model_copy(update={"fps": 2.0})})
    with pytest.raises(DatasetMismatch, match=r"clip\.fps: 4\.0 in the dataset, 2\.0 in this run"):
        plan_job(other)


def test_a_source_of_nothing_is_refused_as_by_the_job(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="matches no file"):
        plan_job(job([str(tmp_path / "nothing")], str(tmp_path / "out")))


def test_time_that_is_over_cuts_a_video_and_says_so(corpus: Path, decoder: Decoder) -> None:
    [unit] = planned_units(job([str(corpus / "a.tar")], "o"))
    one = probe(unit, decoder, seconds=0.0)
    assert (one.samples, one.readable, one.decoded, one.cut_short) == (4, 3, 1, 1)
    assert (one.clips.total(), one.scale, one.whole) == (1, 3.0, False)
    one = probe(unit, decoder, seconds=60.0)
    assert (one.samples, one.readable, one.decoded, one.cut_short) == (4, 3, 3, 0)
    assert (one.scale, one.whole) == (1.0, True)
    assert one.clips.total() > 4
    one = probe(unit, decoder, seconds=None)
    assert (one.samples, one.readable, one.decoded, one.scale) == (4, 3, 0, 0.0)


EVERY: dict[str, Any] = {
    **{"fps": [4.0, None], "short": "pad", "stride_s": 0.5, "every_bucket": True},
    "buckets": [{"frames": t, "height": h, "width": 40} for t, h in ((5, 32), (9, 16), (5, 9999))],
}


@pytest.mark.parametrize("limit", [{}, {"max_per_sample": 2}])
def test_windows_are_counted_as_the_job_cuts_them(corpus: Path, limit: dict[str, Any]) -> None:
    config = job([str(corpus / "b.tar")], "o", clip=EVERY | limit)
    [closing] = closings(config)
    [unit] = planned_units(config)
    with open_decoder(config.clip.identity(), config.decode) as decoder:
        one = probe(unit, decoder, seconds=0.0 if limit else 60.0)
    assert one.clips.total() == closing.counts.clips_written
    assert set(one.clips) == {"5x32x40", "9x16x40"}
    assert one.seconds_seen == pytest.approx(closing.counts.microseconds_decoded / 1e6)
    assert one.cut_short == 0, "the chosen clips of a video are known at its end"
    assert closing.counts.imbalance() is None
    assert (closing.dropped.get("max_per_sample", 0) > 0) == bool(limit)
    if limit:
        assert one.clips == {"5x32x40": 2 * 2, "9x16x40": 2 * 2}


def test_what_was_cut_short_is_told(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus / "b.tar")], str(tmp_path / "out"))
    found = plan_job(config, seconds=1e-6)
    assert (found.probed[0].cut_short, found.estimates.clips) == (1, Estimate(1.0, None))
    assert any("are underestimated" in line for line in found.lines())
    assert "about 1 (no error estimate from one unit)" in "\n".join(found.lines())


def test_hours_of_a_cpu_have_no_price_where_a_gpu_is_wanted(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus / "c.tar")], str(tmp_path / "out"))
    prices: dict[str, float] = {"price_cpu_hour": 3.0, "price_gpu_hour": 5.0}
    for device in ("cpu", "cuda"):
        settings = config.model_copy(
            update={"tokenize": config.tokenize.model_copy(update={"device": device, "threads": 2})}
        )
        found = plan_job(settings, seconds=1, **prices)
        if found.device == "cuda":
            pytest.skip("this machine has a GPU")
        assert found.estimates.tokenize_hours is not None
        if device == "cpu":
            assert found.estimates.tokenize_cost == found.estimates.tokenize_hours.times(3.0 * 2)
        else:
            assert found.estimates.tokenize_cost is None
            assert found.lines()[-1].endswith("this machine has none to measure on")


def test_rows_of_a_list_and_images(corpus: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 50)).save(tmp_path / "z.png")
    rows = [{"video": str(corpus / "x.mp4"), "end": 2.0}, {"video": "z.png"}, {"video": "gone.mp4"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": [str(tmp_path / "list.jsonl")], "lists": {"end_s": "end", "rows_per_unit": 2}}
    shapes = [{"frames": frames, "height": 32, "width": 40} for frames in (1, 5)]
    clip = {"buckets": shapes, "fps": 4.0, "short": "drop"}
    config = job([], str(tmp_path / "out"), source=source, clip=clip)
    truth = closings(config)
    found = plan_job(config, probes=2)
    assert (found.units.left_tars, found.units.left_runs, found.units.left_list_runs) == (0, 0, 2)
    assert found.estimates.samples == Estimate(3, 0.0)
    assert found.estimates.clips == Estimate(sum(c.counts.clips_written for c in truth), 0.0)
    assert {name for probe in found.probed for name in probe.clips} == {"1x32x40", "5x32x40"}
    assert [record.reason for record in found.quarantined] == ["file_unreadable"]


def test_whole_videos_are_counted_and_no_more(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus)], str(tmp_path / "out"))
    whole = config.clip.model_copy(update={"frames": None, "whole": True})
    found = plan_job(config.model_copy(update={"clip": whole}), probes=5)
    assert (found.estimates.samples, found.estimates.clips) == (Estimate(11, 0.0), None)
    assert found.lines()[-1].endswith("bytes and hours unknown")


@pytest.mark.s3
def test_sources_and_output_on_an_object_store(s3: S3Server) -> None:
    bucket = s3.bucket()
    store = Store(bucket, s3.storage_options)
    store.write("in/a.tar", tar(SHORT, SHORT))
    config = job([f"{bucket}/in/a.tar"], f"{bucket}/out")
    options = {"storage_options": s3.storage_options}
    config = config.model_copy(
        update={
            "source": config.source.model_copy(update=options),
            "output": config.output.model_copy(update=options),
        }
    )
    found = plan_job(config, seconds=0)
    assert found.estimates.samples == Estimate(3, 0.0)
    assert found.estimates.video_bytes == Estimate(2 * SHORT.stat().st_size, 0.0)
    assert store.list() == ["in/a.tar"]


def test_command(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus / "a.tar")], str(tmp_path / "out"))
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(str(path)) == config
    run = CliRunner().invoke
    done = run(app, ["plan", str(path), "--seconds", "0", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["units"] == {
        "planned": 1,
        "committed": 0,
        "left": 1,
        "left_tars": 1,
        "left_runs": 0,
        "left_list_runs": 0,
    }
    assert found["estimates"]["samples"] == {"value": 4, "error": 0}
    assert found["estimates"]["clips"] is None
    assert [record["reason"] for record in found["probed"][0]["quarantined"]] == ["no_video"]
    done = run(app, ["plan", str(path), "--seconds", "0"])
    assert done.stdout.splitlines()[1:3] == [
        "units      1 planned · 0 committed · 1 left",
        "           1 tar, 0 runs of files, 0 runs of list rows",
    ]
    done = run(app, ["plan", str(path), "clip.frames=6"])
    assert done.exit_code == 2
    assert "command line: clip.frames = 6:" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_person_sees_the_first_of_many_losses(corpus: Path, tmp_path: Path) -> None:
    config = job([str(corpus / "a.tar")], str(tmp_path / "out"))
    found = plan_job(config, seconds=0)
    found.probed[0].quarantined = [replace(found.quarantined[0], key=str(n)) for n in range(23)]
    lines = found.lines()
    assert sum(line.startswith("quarantine ") for line in lines) == 22
    assert "quarantine    23 no_video: the sample has no video" in lines
    assert "quarantine and 3 more" in lines
