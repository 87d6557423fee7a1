"""Videos of kinds that people report: odd clocks, lengths and joins that every player plays."""

from collections.abc import Iterable

import pytest

from pipeline.decode import clips
from pipeline.records import Span
from tests.pipeline.decode.numbered import FIELD, shown


def shared_times(count: int = 220) -> list[float]:
    """Times of which every tenth belongs to two pictures."""
    out: list[float] = []
    while len(out) < count:
        step = len(out) - len(out) // 11
        out += [step * 0.04] * (2 if step % 10 == 9 else 1)
    return out[:count]


INSTANT = [(n - n // 11) * 0.04 for n in range(219)]
EQUAL = {
    "equal_times.mkv": shared_times(),
    "equal_times.flv": shared_times(),
    "instant_samples.mp4": INSTANT,
}

WHOLE: dict[str, Iterable[int]] = {
    "empty_h264.mp4": range(60),
    "empty_mpeg4.mp4": range(60),
    "joined_h264.ts": range(100),
    "joined_mpeg2.ts": range(100),
    "recorded.webm": range(50),
    "piece_2.mkv": range(50, 75),
    "later_start.webm": range(100),
    "late_video.mp4": range(100),
    "late_video.mkv": range(100),
    "long_still.mkv": range(60),
    "trim.mp4": range(35, 85),
    "two_parts.mp4": [*range(10, 35), *range(60, 85)],
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_every_player_plays_is_whole(name: str):
    found, end = shown(FIELD / name)
    assert end == "whole"
    assert [n for _, n in found] == list(WHOLE[name])


@pytest.mark.parametrize("name", ["recorded_cut.webm", "live_cut.webm"])
def test_a_recording_that_is_cut_is_truncated(name: str):
    found, end = shown(FIELD / name)
    assert [n for _, n in found] == list(range(22))
    assert end == "truncated: matroska,webm: File ended prematurely"


@pytest.mark.parametrize("name", ["joined_h264.ts", "joined_mpeg2.ts"])
def test_segments_that_were_joined_are_in_doubt_only_if_asked_for(name: str):
    assert "incomplete" in shown(FIELD / name, damage="strict")[1]
    assert shown(FIELD / name, damage="keep") == shown(FIELD / name)


def test_a_hole_in_a_transport_stream_is_damage():
    """The control of the joined segments: here packets are missing."""
    assert shown(FIELD / "hole.ts")[1].startswith("corrupt: ")
    assert shown(FIELD / "hole.ts", damage="strict")[1].startswith("corrupt: ")
    assert shown(FIELD / "hole.ts", damage="keep")[1] == "whole"


@pytest.mark.parametrize("name", EQUAL)
def test_pictures_that_share_a_time_move_no_other(name: str):
    found, _ = shown(FIELD / name)
    times = EQUAL[name]
    assert [n for _, n in found] == list(range(len(times)))
    assert all(abs(t - times[n]) < 0.021 for t, n in found)
    after = [n for n in range(len(times) - 1) if times[n] not in (times[n - 1], times[n + 1])]
    assert all(abs(found[n][0] - times[n]) < 1e-9 for n in after)
    sampled = [n for _, n in shown(FIELD / name, fps=8)[0]]
    due = [max(n for n, t in enumerate(times) if t <= k / 8 + 0.0201) for k in range(64)]
    assert len(sampled) == 64
    assert all(abs(n - right) <= 1 for n, right in zip(sampled, due, strict=True))


def test_empty_samples_are_time_in_which_the_picture_before_them_stays():
    for name in ("empty_h264.mp4", "empty_mpeg4.mp4"):
        times = {n: t for t, n in shown(FIELD / name)[0]}
        assert (times[9], times[10], times[59]) == (0.36, 0.44, 2.68)


SPANS: list[tuple[str, float, float, Iterable[int]]] = [
    ("joined_h264.ts", 2.0, 3.0, range(50, 75)),
    ("joined_mpeg2.ts", 2.0, 3.0, range(50, 75)),
    ("trim.mp4", 0.52, 1.0, range(48, 60)),
    ("two_parts.mp4", 0.8, 1.2, [*range(30, 35), *range(60, 65)]),
    ("late_video.mp4", 2.0, 2.4, range(12, 22)),
    ("late_video.mkv", 2.0, 2.4, range(12, 22)),
]


@pytest.mark.parametrize(("name", "start", "end", "numbers"), SPANS, ids=lambda value: str(value))
def test_spans_count_from_the_beginning_of_the_file(
    name: str, start: float, end: float, numbers: Iterable[int]
):
    found, outcome = shown(FIELD / name, Span(start_s=start, end_s=end))
    assert outcome == "whole"
    assert [n for _, n in found] == list(numbers)
    if name.startswith("late"):
        assert abs(found[0][0] - start) < 0.0201, "the row says the same time as the list"


@pytest.mark.parametrize("name", sorted({*WHOLE, *EQUAL}))
def test_a_seek_changes_no_span(name: str, monkeypatch: pytest.MonkeyPatch):
    def look() -> list[object]:
        ends = (("every", None), ("sampled", 8.0))
        return [
            shown(FIELD / name, Span(start_s=start, end_s=start + 0.5), fps=fps)
            for start in (0.04, 0.36, 0.52, 0.98, 1.0, 1.02, 1.6, 2.0, 3.3, 4.4)
            for _, fps in ends
        ]

    sought = look()
    monkeypatch.setattr(clips, "frames_by_seek", lambda *_: None)
    assert sought == look()


def test_an_encrypted_video_is_named_so():
    assert shown(FIELD / "encrypted.mp4") == (
        [],
        "unsupported: the video is encrypted, and there is no key",
    )


def test_a_picture_may_stay_as_long_as_a_setting_says():
    found, end = shown(FIELD / "long_still.mkv", max_gap_s=60)
    assert [n for _, n in found] == list(range(29))
    assert end.startswith("corrupt: the timestamps leave 90.0 s to one frame")
    assert end.endswith("more than decode.max_gap_s = 60")
