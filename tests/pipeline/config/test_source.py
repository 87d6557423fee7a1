"""One section says where videos come from, for the corpus job, training and evaluation."""

import pytest

from pipeline.config.source import ListConfig, VideoSource, job_only_faults


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
    source = VideoSource(uri=["a"], files_per_unit=2, lists=ListConfig(key="id"))
    assert [str(fault) for fault in job_only_faults(source, "validation")] == [
        "validation.lists: only the corpus job reads it; leave it out",
        "validation.files_per_unit: only the corpus job reads it; leave it out",
    ]


def test_storage_options_are_blanked_at_any_depth() -> None:
    source = VideoSource(uri=["a"], storage_options={"key": "hush", "client": {"secret": "hush"}})
    assert source.public()["storage_options"] == {"key": "…", "client": "…"}
