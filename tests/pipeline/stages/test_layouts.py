"""Datasets of other tools, read with the settings that the documentation gives."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config.job import JobConfig
from pipeline.config.source import VideoSource
from pipeline.errors import ConfigError
from pipeline.job.config_checks import check_job, load_config
from pipeline.records import Span
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import BatchRow, decode_rows
from tests.pipeline.sources.test_beside import meta, shard, write_tar

ROOT = Path(__file__).parents[3]
LEROBOT = ROOT / "tests/data/lerobot"
PAGE = (ROOT / "docs/reference/sources.md").read_text()
RECIPES = PAGE.partition("## Datasets of other tools")[2].partition("\n## ")[0]
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
JOB = {
    "clip": {"frames": 5, "height": 32, "width": 32},
    "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
    "output": {"uri": "out"},
}


def recipe(title: str, number: int, old: str, new: str) -> JobConfig:
    """Return the job of the n-th YAML under a heading, with another place."""
    text = YAML.findall(RECIPES.partition(f"### {title}\n")[2].partition("\n### ")[0])[number]
    assert old in text
    return JobConfig.model_validate(yaml.safe_load(text.replace(old, new)) | JOB)


def samples(config: JobConfig) -> list[Any]:
    assert check_job(config) == []
    reader = SampleReader(config.source, tracks=config.tracks)
    return [one for unit in plan_units(config.source) for one in reader.read(unit)]


@pytest.mark.parametrize("text", YAML.findall(PAGE), ids=lambda text: text[:40])
def test_settings_of_the_page_are_valid(text: str, tmp_path: Path) -> None:
    values = {"source": {"uri": "a"}} | JOB | yaml.safe_load(text)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(values))
    load_config(str(path))


class TestCosmosCurate:
    def test_shards(self, tmp_path: Path) -> None:
        shard(tmp_path, ["k1", "k2"], [(f"{k}.json", meta(f"clip {k}")) for k in ("k1", "k2")])
        found = samples(recipe("cosmos-curate", 0, "s3://curated", str(tmp_path)))
        assert [(one.key, one.caption) for one in found] == [("k1", "clip k1"), ("k2", "clip k2")]
        windows = json.loads(found[0].meta)["json"]["windows"]
        assert windows[1]["qwen_caption"] == "a later window"

    def test_split(self, tmp_path: Path) -> None:
        for name in ("clips/k.mp4", "metas/v0/k.json", "iv2_embd/k.pickle", "summary.json"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(meta("clip k"))
        [one] = samples(recipe("cosmos-curate", 1, "s3://split", str(tmp_path)))
        assert (one.key, one.caption) == ("k.mp4", "clip k")


class TestLeRobot:
    @pytest.mark.parametrize("camera", ["top", "wrist"])
    def test_episodes_have_their_frames_tasks_and_actions(self, camera: str) -> None:
        values = yaml.safe_load(YAML.findall(RECIPES.partition("### LeRobot\n")[2])[0])
        source = {"uri": str(LEROBOT), "lerobot": f"observation.images.{camera}"}
        config = JobConfig.model_validate(values | {"source": source} | JOB)
        found = samples(config)
        assert [(one.key, one.caption) for one in found] == [
            ("0", "pick the cube"),
            ("1", "open the drawer"),
            ("2", "pick the cube"),
        ]
        assert [one.span for one in found] == [
            Span(start_s=0.0, end_s=1.3),
            Span(start_s=1.3, end_s=2.2),
            Span(start_s=2.2, end_s=3.3000000000000003),
        ]
        noted = json.loads(found[1].meta)
        assert (noted["length"], noted["tasks"]) == (9, ["open the drawer"])
        assert not any(name.startswith("stats/") for name in noted)
        stage = DecodeStage(
            config.source, config.clip, config.decode, row_clips=8, tracks=config.tracks
        )
        with stage:
            rows = [row for unit in plan_units(config.source) for row in stage(unit)]
        [row] = [row for row in rows if isinstance(row, BatchRow)]
        assert [clip.key for clip in row.header.clips] == ["0", "0", "1", "2", "2"]
        side = decode_rows(row.side)
        for n, clip in enumerate(row.header.clips):
            episode, first = int(clip.key), 5 * clip.clip_index
            frames = np.arange(first, first + 5)
            action = np.frombuffer(side["action"][n].as_py(), "<f4").reshape(5, 3)
            assert action[:, 0].tolist() == [episode] * 5
            assert action[:, 1].tolist() == frames.tolist()
            assert action[:, 2].tolist() == (100 * episode + frames).tolist()
            state = np.frombuffer(side["state"][n].as_py(), "<f4").reshape(5, 2)
            np.testing.assert_allclose(state[:, 1], frames, atol=1e-4)
            assert side["action_outside"][n].as_py() == 0
            levels = 40 + 60 * episode + 4 * frames
            levels = levels if camera == "top" else 255 - levels
            shown = row.frames[n].mean(axis=(1, 2, 3))
            np.testing.assert_allclose(shown, levels, atol=3)

    def test_single_settings_can_be_changed_and_the_rest_survives_a_copy(self) -> None:
        values = {
            "uri": [str(LEROBOT)],
            "lerobot": "cam",
            "lists": {"meta": [], "rows_per_unit": 3},
        }
        source = VideoSource.model_validate(values)
        assert (source.lists.meta, source.lists.rows_per_unit) == ([], 3)
        assert source.lists.start_s == "videos/cam/from_timestamp"
        assert VideoSource.model_validate(source.model_dump()) == source
        with pytest.raises(ConfigError, match=r"source\.lists\.video = videos/cam/chunk_index: no"):
            plan_units(source)

    def test_an_older_dataset_by_templates(self, tmp_path: Path) -> None:
        video = tmp_path / "videos/chunk-000/observation.images.top/episode_000007.mp4"
        data = tmp_path / "data/chunk-000/episode_000007.parquet"
        for path in (video, data, tmp_path / "meta/episodes.jsonl"):
            path.parent.mkdir(parents=True)
        shutil.copy(ROOT / "tests/data/videos/odd/one_frame.mp4", video)
        seconds = pa.array([0.0, 0.1], pa.float32())
        rows = {"episode_index": [7, 7], "timestamp": seconds, "action": [[1.0, 2.0], [3.0, 4.0]]}
        pq.write_table(pa.table(rows), data)
        episode = {"episode_index": 7, "tasks": ["stack"], "length": 2}
        (tmp_path / "meta/episodes.jsonl").write_text(json.dumps(episode) + "\n")
        [one] = samples(recipe("LeRobot", 1, "/data/aloha", str(tmp_path)))
        assert (one.key, one.caption, one.video) == ("7", "stack", str(video))
        assert one.tracks["action"].values.tolist() == [[1, 2], [3, 4]]


def test_video2dataset(tmp_path: Path) -> None:
    keys = ["000000000", "000000001"]
    members: list[tuple[str, bytes]] = []
    for key in keys:
        info = {"url": "u", "caption": key, "key": key, "status": "success", "yt": "x" * 70_000}
        members += [
            (f"{key}.mp4", b"v"),
            (f"{key}.txt", f"caption of {key}".encode()),
            (f"{key}.json", json.dumps(info, indent=4).encode()),
        ]
    write_tar(tmp_path / "00000.tar", members)
    pq.write_table(pa.table({"key": keys, "status": ["success"] * 2}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text('{"count": 2}')
    config = recipe("video2dataset", 0, "s3://crawl/{00000..00127}", f"{tmp_path}/{{00000..00000}}")
    for one in (config, config.model_copy(update={"source": VideoSource(uri=[str(tmp_path)])})):
        found = samples(one)
        assert [(s.key, s.caption) for s in found] == [(k, f"caption of {k}") for k in keys]
    assert json.loads(samples(config)[0].meta)["json"]["status"] == "success"


def test_openvid(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    names = ["celebv_--0_1_0.mp4", "pexels 2, b.mp4"]
    with (tmp_path / "OpenVid-1M.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "caption", "aesthetic score", "motion score", "seconds"])
        for name in (*names, "gone.mp4"):
            rows.writerow([name, f'A "quoted" caption,\nof {name}', "5.1", "0.7", "3.4"])
    for name in names:
        shutil.copy(ROOT / "tests/data/videos/odd/one_frame.mp4", tmp_path / "videos" / name)
    first, second, gone = samples(recipe("OpenVid", 0, "/data/openvid", str(tmp_path)))
    assert (first.key, first.caption) == (names[0], f'A "quoted" caption,\nof {names[0]}')
    assert (second.key, second.video) == (names[1], f"{tmp_path}/videos/{names[1]}")
    assert json.loads(first.meta)["aesthetic score"] == "5.1"
    assert gone.reason == "file_unreadable"
