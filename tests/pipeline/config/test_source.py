"""One section says where videos come from, for the corpus job, training and evaluation."""

import pytest
from pydantic import ValidationError

from pipeline.config.source import (
    BesideConfig,
    ListConfig,
    VideoSource,
    filled,
    job_only_faults,
    template_columns,
)


@pytest.mark.parametrize(
    ("pattern", "name", "is_excluded"),
    [
        ("s3://b/held/*", "s3://b/held/deep/x.mp4", True),
        ("s3://b/held/*", "s3://b/train/x.mp4", False),
        ("*/shard-00?.tar", "/data/shard-001.tar", True),
        ("*/shard-00?.tar", "/data/shard-011.tar", False),
        ("x", "x", True),
        ("x", "xy", False),
        ("[xy]*", "y1", True),
        ("X", "x", False),
    ],
)
def test_a_pattern_covers_a_whole_name(pattern: str, name: str, is_excluded: bool) -> None:
    source = VideoSource(uri=["unused"], exclude=["other", pattern])
    assert source.excludes(name) is is_excluded
    assert source.excludes("unrelated", name) is is_excluded
    assert not VideoSource(uri=["unused"]).excludes(name)


def test_a_single_string_is_a_list_of_one() -> None:
    source = VideoSource.model_validate({"uri": "a.tar", "exclude": "x"})
    assert (source.uri, source.exclude) == (["a.tar"], ["x"])


def test_settings_of_the_corpus_job_are_refused_elsewhere() -> None:
    assert list(job_only_faults(VideoSource(uri=["a"], max_video_mb=5), "source")) == []
    beside = [BesideConfig(find="/a/", replace="/b/")]
    lists = ListConfig(key="id")
    source = VideoSource(uri=["a"], beside=beside, caption="c", lists=lists, files_per_unit=2)
    assert [str(fault) for fault in job_only_faults(source, "validation")] == [
        "validation.beside: only tokenize reads it; leave it out",
        "validation.caption: only tokenize reads it; leave it out",
        "validation.lists: only tokenize reads it; leave it out",
        "validation.files_per_unit: only tokenize reads it; leave it out",
    ]


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("/video/v0/video/0.tar", "/video/v0/metas/0.tar"),
        ("s3://b/video/0.tar", "s3://b/metas/0.tar"),
        ("s3://b/videos/0.tar", None),
    ],
)
def test_the_last_part_that_is_found_is_replaced(uri: str, wanted: str | None) -> None:
    assert BesideConfig(find="/video/", replace="/metas/").of(uri) == wanted


@pytest.mark.parametrize(
    ("template", "columns", "wanted"),
    [
        ("{a}/{b:03d}.mp4", ["a", "b"], "x/007.mp4"),
        ("{a}-{b:02}", ["a", "b"], "x-07"),
        ("videos/{c.d/e:06d}", ["c.d/e"], "videos/000001"),
        ("plain.mp4", [], "plain.mp4"),
        ("{}/{a!r}/{b:>3}", ["a!r"], None),
    ],
)
def test_templates(template: str, columns: list[str], wanted: str | None) -> None:
    """Only `{name}` and `{name:03d}` are fields: no attribute and no format is ever looked up."""
    row = {"a": "x", "b": 7, "c.d/e": "1"}
    assert template_columns(template) == columns
    if wanted is not None:
        assert filled(template, row) == wanted
    for empty in ({}, dict.fromkeys(columns, ""), dict.fromkeys(columns)):
        if columns:
            with pytest.raises(ValueError, match="is empty"):
                filled(template, empty)


def test_storage_options_are_blanked_at_any_depth() -> None:
    source = VideoSource(uri=["a"], storage_options={"key": "hush", "client": {"secret": "hush"}})
    assert source.public()["storage_options"] == {"key": "…", "client": "…"}


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"uri": 3, "lerobot": "cam"}, "uri"),
        ({"uri": "a", "lerobot": 3}, "lerobot"),
        ({"uri": "a", "lerobot": "cam", "lists": "x"}, "lists"),
        ({"uri": "a", "lerobot": "cam", "lists": {"nothing": 1}}, "lists.nothing"),
        ({"uri": ["a", None], "lerobot": "cam"}, "uri.1"),
    ],
)
def test_wrong_settings_of_a_lerobot_dataset_are_named(
    values: dict[str, object], where: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        VideoSource.model_validate(values)
    assert where in [".".join(map(str, one["loc"])) for one in caught.value.errors()]
