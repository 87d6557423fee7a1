"""A job over lists: spans of videos, images beside them, videos inside Parquet.

Its workers run without Ray.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.tally import Tally
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.assets import HIKER, VIDTOK_EXAMPLE
from tests.jobs.conftest import committed_rows, job
from tests.pipeline.tokenized import tokenized

CLIP = {
    "fps": 8.0,
    "short": "pad",
    "buckets": [
        {"frames": 5, "height": 32, "width": 40},
        {"frames": 1, "height": 32, "width": 32},
        {"frames": 1, "height": 24, "width": 48},
    ],
}
LISTS = {
    "root": None,
    "key": "id",
    "caption": "text",
    "start_s": "from",
    "end_s": "to",
    "rows_per_unit": 4,
}
HEADER = "id,video,from,to,text,source\n"
ROWS = (
    f"a-0,{HIKER.name},0.5,1.75,walks,web\n"
    f"a-1,{HIKER.name},3,3.6,turns,web\n"
    "picture,wide.png,,,a plate,scan\n"
    f"whole,{VIDTOK_EXAMPLE.name},,,,web\n"
    "gone,gone.mp4,0,1,,web\n"
    f"b-0,{VIDTOK_EXAMPLE.name},2,3.2,later,web\n"
)


def fill(folder: Path) -> None:
    folder.mkdir()
    for asset in (HIKER, VIDTOK_EXAMPLE):
        shutil.copy(asset.path, folder)
    Image.linear_gradient("L").resize((96, 48)).save(folder / "wide.png")


def list_job(uris: list[str], output: str, root: str) -> Any:
    return job(uris, output, clip=CLIP, source__lists=LISTS | {"root": root})


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """Rows of a list, and of Parquet that holds its videos."""
    folder = tmp_path_factory.mktemp("lists")
    fill(folder / "videos")
    (folder / "list.csv").write_text(HEADER + ROWS)
    pq.write_table(inside_parquet(folder), folder / "videos.parquet", row_group_size=1)
    both = [f"{folder}/list.csv", f"{folder}/videos.parquet"]
    store = tokenized(list_job(both, f"{folder}/out", f"{folder}/videos"))
    total = Tally.of(read_manifest(store))
    assert (total.units, total.counts.samples_quarantined) == (3, 1)
    return folder, committed_rows(store)


def inside_parquet(folder: Path) -> pa.Table:
    """Return a table with the videos of a folder inside, and the columns of the list."""
    names = [HIKER.name, "wide.png", VIDTOK_EXAMPLE.name]
    videos = [{"bytes": (folder / "videos" / n).read_bytes(), "path": n} for n in names]
    keys = {"id": [f"inside-{key}" for key in ("hiker", "picture", "whole")]}
    nothing = {name: pa.nulls(3, pa.string()) for name in ("text", "from", "to")}
    return pa.table({"video": videos} | keys | nothing)


def test_every_row_is_a_sample(listed: tuple[Path, pa.Table]) -> None:
    folder, rows = listed
    clips = {
        key: rows.filter(pc.equal(rows["key"], key)).to_pylist()
        for key in ("a-0", "a-1", "picture", "whole", "b-0")
    }
    inside = pc.sum(pc.starts_with(rows["key"], "inside-")).as_py()
    assert sum(map(len, clips.values())) + inside == rows.num_rows
    assert [(r["start_s"], r["end_s"], r["padded_frames"]) for r in clips["a-0"]] == [
        (0.5, 1.125, 0),
        (1.125, 1.75, 0),
    ]
    assert [(r["start_s"], r["padded_frames"]) for r in clips["a-1"]] == [(3.0, 0)]
    [picture] = clips["picture"]
    assert (picture["caption"], picture["kl_shape"]) == ("a plate", [8, 1, 3, 6])
    assert (picture["end_s"], picture["source_fps"]) == (0, 0)
    assert json.loads(picture["meta"]) == {
        "video": "wide.png",
        "from": "",
        "to": "",
        "source": "scan",
    }
    assert (len(clips["whole"]), clips["whole"][0]["caption"]) == (8, None)
    assert clips["b-0"][0]["caption"] == "later"
    [fault] = pq.read_table(next((folder / "out/quarantine").iterdir())).to_pylist()
    assert (fault["key"], fault["reason"]) == ("gone", "file_unreadable")


def test_verify_finds_the_rows_of_the_list_again(listed: tuple[Path, pa.Table]) -> None:
    folder, rows = listed
    found = verify(Store(str(folder / "out")), retokenize=rows.num_rows, decode=2)
    assert found.findings == []
    assert found.clips_retokenized == rows.num_rows


def test_videos_inside_parquet_have_the_tokens_of_the_files(
    listed: tuple[Path, pa.Table],
) -> None:
    _, rows = listed
    for key in ("picture", "whole"):
        one, other = (rows.filter(pc.equal(rows["key"], k)) for k in (key, f"inside-{key}"))
        assert one.num_rows > 0
        for column in ("fsq", "kl", "kl_logvar", "start_s", "crop"):
            assert one[column].equals(other[column]), (key, column)
