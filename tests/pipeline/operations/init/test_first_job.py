"""A first job fits its source, loads, can be planned, and replaces no file."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from PIL import Image

from pipeline.commands import main
from pipeline.config.job import JobConfig
from pipeline.errors import ConfigError
from pipeline.job.config_checks import load_config
from pipeline.job.setup import planned_units
from pipeline.operations.doctor import examine
from pipeline.operations.init.first_job import DEFAULT_MODEL, FirstJob, write_first_job
from pipeline.operations.plan.plan import plan_job
from pipeline.operations.plan.probe import probe_unit
from pipeline.records import Bucket
from pipeline.stages.clip_filter import open_filter
from pipeline.stages.decode import open_decoder
from tests.assets import VIDEOS
from tests.pipeline.s3 import S3Server
from tests.pipeline.tars import make_tar

GOOD = VIDEOS / "hiker_tiny.mp4"  # 240×426, 2 s at 25 frames per second


def written(source: Path | str, out: Path, **options: object) -> tuple[FirstJob, JobConfig]:
    """Return what `init` says, and the settings that it wrote."""
    path = str(out / "job.yaml")
    made = write_first_job(str(source), out=path, seconds=math.inf, **options)  # type: ignore[arg-type]
    return made, load_config(str(out / "job.yaml"))


def test_what_it_writes_for_a_folder_loads_and_is_planned(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    names = ("bikes.mp4", "vidtok_example.mp4", "broken/text.mp4", "odd/video_90.mov")
    for name in names:
        shutil.copy(VIDEOS / name, source / Path(name).name)
    made, config = written(source, tmp_path)
    assert config.source.uri == [str(source)]
    assert config.tokenizers[0].model == DEFAULT_MODEL
    assert 1 < len(config.clip.buckets) <= 3
    assert {bucket.frames for bucket in config.clip.buckets} == {17}
    [broken] = made.broken
    assert "/text.mp4: decode: not_a_video" in broken
    text = (tmp_path / "job.yaml").read_text()
    assert "# broken     1 of 4, which a job quarantines:" in text
    first, *_ = text.splitlines()
    assert first == "# yaml-language-server: $schema=job.schema.json"
    schema = json.loads((tmp_path / "job.schema.json").read_text())
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(text))
    plan = plan_job(config, seconds=0)
    assert plan.estimates.samples is not None
    assert plan.estimates.samples.value == made.samples == 4


def test_a_tar_with_captions_and_images(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (300, 300)).save(picture)
    files = [("a.mp4", GOOD.read_bytes()), ("a.txt", b"a hiker"), ("b.png", picture.read_bytes())]
    (tmp_path / "x.tar").write_bytes(make_tar(files))
    made, config = written(tmp_path / "x.tar", tmp_path)
    assert (made.samples, made.samples_are_exact, made.looked_at) == (2, True, 2)
    assert "captions   1 of 2" in made.found
    assert [bucket.frames for bucket in config.clip.buckets] == [17, 1]
    [unit] = planned_units(config)
    clip = config.clip
    with open_decoder(clip.identity(), config.decode) as decoder:
        probe = probe_unit(
            unit,
            decoder,
            seconds=math.inf,
            source=config.source,
            images=clip.takes_images,
            clip_filter=open_filter(clip.identity()),
        )
    assert made.clips == probe.clips.total() == 3
    sizes = [Bucket.named(name) for name in probe.clips.elements()]
    latent_frames = {17: 5, 1: 1}
    cells = sum(latent_frames[one.frames] * one.height * one.width // 64 for one in sizes)
    assert made.cell_bytes == 4 * cells  # 262144 codes are uint32


def test_a_pattern_is_named_after_its_folder(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    shutil.copy(GOOD, tmp_path / "holiday" / "0.mp4")
    _, config = written(tmp_path / "holiday" / "*.mp4", tmp_path)
    assert config.output.uri == "out/holiday"


def test_a_list_names_its_columns(tmp_path: Path) -> None:
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "path", "prompt"), (1, str(GOOD), "a hiker")])
    made, config = written(tmp_path / "list.csv", tmp_path)
    assert (config.source.lists.video, config.source.lists.caption) == ("path", "prompt")
    assert "captions   1 of 1" in made.found


def test_the_sample_is_bounded(tmp_path: Path) -> None:
    for n in range(9):
        shutil.copy(GOOD, tmp_path / f"{n}.mp4")
    made, _ = written(tmp_path, tmp_path, look=4)
    assert (made.looked_at, made.samples) == (4, 9)


def test_the_time_budget_ends_the_look_after_a_sample(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(GOOD, tmp_path / name)
    made = write_first_job(str(tmp_path), out=str(tmp_path / "job.yaml"), seconds=0.0)
    assert (made.looked_at, made.samples) == (1, 2)
    assert (
        "looked at  1 of them, where the time budget ended: 1 video, 0 images opened" in made.found
    )


def test_the_named_model_decides_the_shapes(tmp_path: Path) -> None:
    _, config = written(GOOD, tmp_path, model="vidtok_fsq_noncausal_41616_262144")
    [spec] = config.tokenizers
    assert spec.weights == "hub"
    assert config.clip.frames == 16
    assert config.clip.height is not None
    assert config.clip.height % 16 == 0


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="exists, and init overwrites no file"):
        written(GOOD, tmp_path)
    assert (tmp_path / "job.yaml").read_text() == "mine"
    (tmp_path / "other.schema.json").write_text("mine too")
    write_first_job(str(GOOD), out=str(tmp_path / "other.yaml"))
    assert (tmp_path / "other.schema.json").read_text() == "mine too"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("empty", [], "matches no file: EMPTY/empty is an empty folder"),
        ("texts", [], "1 files, but no tar"),
        ("broken", [], "none of 1 sample can be opened; the first: "),
        (
            "broken",
            ["--model", "vidtok_fsq"],
            "error: --model = vidtok_fsq: no model has this name",
        ),
    ],
)
def test_a_source_without_videos_is_told_in_a_line(
    name: str, options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).mkdir()
    if name != "empty":
        (tmp_path / name / f"a.{'txt' if name == 'texts' else 'mp4'}").write_bytes(b"no video" * 99)
    out = tmp_path / "job.yaml"
    assert main(["init", str(tmp_path / name), "--out", str(out), *options]) == 2
    shown = capsys.readouterr().err
    assert says.replace("EMPTY", str(tmp_path)) in shown
    assert shown.count("\n") == 1
    assert not out.exists()


def test_a_name_cannot_write_settings(tmp_path: Path) -> None:
    folder = tmp_path / 'a"\noutput: {uri: elsewhere}\n# ${oc.env:HOME}'
    folder.mkdir()
    shutil.copy(GOOD, folder / "a.mp4")
    (folder / "b\nslice: null\n.mp4").write_bytes(b"no video")
    _, config = written(folder, tmp_path)
    assert config.source.uri == [str(folder)]
    assert config.output.uri.startswith("out/")
    assert config.slice is None


@pytest.mark.s3
def test_a_source_and_an_output_on_s3(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    bucket = s3.bucket()
    for n in range(2):
        s3.put(f"{bucket}/videos/{n}.mp4", GOOD.read_bytes())
        s3.put(f"{bucket}/videos/{n}.txt", b"a hiker")
    made, config = written(f"{bucket}/videos", tmp_path)
    assert made.samples == made.looked_at == 2
    assert "captions   2 of 2" in made.found
    assert config.source.uri == [f"{bucket}/videos"]
    *_, source, output = examine(f"{bucket}/videos", f"{bucket}/out").checks
    assert (source.name, source.state) == ("source", "ok")
    assert (output.name, output.state) == ("output", "ok")
    with s3.faults.rule(lambda _: "ignore_condition"):
        *_, output = examine(None, f"{bucket}/out").checks
    assert output.state == "broken"
    assert "set output.alone=true" in output.text
