"""Tracks: what a sidecar holds, and its values at any times."""

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config.tracks import TrackConfig
from pipeline.quarantine import QuarantineError
from pipeline.sources.sidecars import MAX_SIDECAR_BYTES, Sidecars, max_sidecar_bytes
from pipeline.sources.text import PROBLEMS
from pipeline.sources.tracks import MAX_TRACK_BYTES, MAX_WIDTH, Track, read_track

NUMBERS = st.floats(-1e6, 1e6)


@st.composite
def tracks(draw: st.DrawFn, *, distinct: bool = False) -> Track:
    steps = draw(st.lists(st.floats(0.001 if distinct else 0, 10), min_size=1, max_size=8))
    width = draw(st.integers(1, 3))
    row = st.lists(NUMBERS, min_size=width, max_size=width)
    values = draw(st.lists(row, min_size=len(steps), max_size=len(steps)))
    return Track(np.cumsum(steps), np.array(values), 0.5)


TIMES = st.lists(st.floats(-5, 90), min_size=1, max_size=9)


@given(tracks(distinct=True), TIMES)
def test_linear_is_what_numpy_interpolates(track: Track, times: list[float]) -> None:
    values, _ = track.at(times, "linear")
    assert values.dtype == np.float32
    wanted = [np.interp(times, track.times, column) for column in track.values.T]
    np.testing.assert_allclose(values, np.stack(wanted, axis=1), rtol=1e-6, atol=1e-2)


@given(tracks(), TIMES)
def test_nearest_is_the_nearest_and_of_two_the_earlier(track: Track, times: list[float]) -> None:
    values, _ = track.at(times, "nearest")
    for time, found in zip(times, values, strict=True):
        far = np.abs(track.times - np.clip(time, track.times[0], track.times[-1]))
        equally = track.values[far == far.min()].astype(np.float32)
        assert any((found == one).all() for one in equally)
    halfway, _ = Track(np.array([0.0, 1.0]), np.array([[3.0], [4.0]]), 0.5).at([0.5], "nearest")
    assert halfway.tolist() == [[3.0]]


@given(tracks(), st.sampled_from(["nearest", "linear"]))
def test_its_own_times_give_its_own_values(track: Track, method: str) -> None:
    last_of_equals = [int(np.searchsorted(track.times, t, "right")) - 1 for t in track.times]
    values, outside = track.at(track.times, method)
    assert outside == 0
    if method == "linear" or len(set(last_of_equals)) == len(last_of_equals):
        np.testing.assert_array_equal(values, track.values[last_of_equals].astype(np.float32))


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_ends_are_held_and_frames_beyond_them_counted(method: str) -> None:
    track = read_npy(np.array([[1.0, 10.0], [2.0, 20.0]]), rate=2.0)
    values, outside = track.at([-9, -0.25, 0, 0.5, 0.75, 0.76, 9], method)
    assert outside == 3, "a sample reaches half its interval beyond itself"
    assert values[[0, 1, 2]].tolist() == [[1.0, 10.0]] * 3
    assert values[3:].tolist() == [[2.0, 20.0]] * 4
    alone = Track(np.array([3.0]), np.array([[7.0]]), 0.0)
    assert alone.at([0, 3, 4], method)[0].tolist() == [[7.0]] * 3
    assert alone.at([0, 3, 4], method)[1] == 2


def npy(array: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def config(sidecar: str, **values: Any) -> TrackConfig:
    given = {"rate": 30.0} if "times" not in values and "rate" not in values else {}
    return TrackConfig(name="action", sidecar=sidecar, **given, **values)


def read_npy(array: NDArray[Any], **values: Any) -> Track:
    return read_track(npy(array), config("npy", **values))


ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
FIELDS = np.array([(0.0, 1, (2.0,)), (0.1, 3, (4.0,)), (0.5, 5, (6.0,))], "f8,i2,(1,)f4")


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        (npy(np.array(ROWS, "<f4")), config("npy")),
        (npy(np.array(ROWS, ">f8", order="F")), config("a.b.npy")),
        (npy(np.array(ROWS, "i1")), config("npy")),
        (npy(FIELDS), config("npy", key=["f1", "f2"], times="f0")),
        (npy(FIELDS), config("npy", times="f0")),
        (json.dumps(ROWS).encode(), config("json")),
        (json.dumps({"a": ROWS, "b": "text"}).encode(), config("json", key="a")),
        (json.dumps({"x": [1, 3, 5], "y": [[2], [4], [6]]}).encode(), config("json")),
        (json.dumps({"a": ROWS, "t": [0, 0.1, 0.5]}).encode(), config("json", times="t")),
        (b"x,y\n1,2\n3,4\n\n5,6\n", config("csv")),
        (b'\xef\xbb\xbft, "y" ,x\r\n0,2,1\r\n.1,4,3\r\n5e-1,6,5\r\n', config("csv", times="t")),
        (b"note,x,y,t\nup,1,2,0\n,3,4,0.1\n,5,6,0.5", config("csv", key=["x", "y"], times="t")),
    ],
)
def test_forms(data: bytes, settings: TrackConfig) -> None:
    track = read_track(data, settings)
    if b'"y" ,x' in data:
        track = Track(track.times, track.values[:, ::-1], track.slack_s)
    assert track.values.tolist() == ROWS
    wanted = [0, 0.1, 0.5] if settings.times else [n / 30 for n in range(3)]
    assert track.times.tolist() == wanted
    assert track.slack_s == pytest.approx(0.125 if settings.times else 1 / 60)


def test_an_array_of_more_dimensions_is_flat_in_each_sample() -> None:
    poses = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_npy(poses).values, poses.reshape(2, 12))
    assert read_npy(np.arange(3)).values.tolist() == [[0.0], [1.0], [2.0]]


def header(text: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


def f4(shape: str) -> str:
    return f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("data", "settings", "says"),
    [
        (npy(np.array([{}], object), allow_pickle=True), config("npy"), "not NPY"),
        (npy(np.array(["a"])), config("npy"), "not a type of numbers"),
        (npy(np.array([1j])), config("npy"), "not a type of numbers"),
        (npy(np.array(3.0)), config("npy"), "one number"),
        (npy(np.zeros((0, 3))), config("npy"), r"its arrays have \[0\] samples"),
        (npy(np.zeros((3, 0))), config("npy"), "0 numbers in each sample"),
        (npy(np.zeros((2, MAX_WIDTH + 1), "u1")), config("npy"), f"{MAX_WIDTH + 1} numbers"),
        (npy(np.array([1.0, np.nan])), config("npy"), "NaN or infinity"),
        (npy(np.array([1.0, -np.inf])), config("npy"), "NaN or infinity"),
        (npy(np.array([1e39])), config("npy"), "beyond the range of float32"),
        (
            npy(np.zeros(3)),
            config("npy", times="t"),
            "holds one array without names, so it has no t",
        ),
        (npy(np.zeros(3))[:-1], config("npy"), r"23 bytes are not float64 \[3\]"),
        (header(f4("(1 << 40,)")), config("npy"), "not NPY"),
        (header(f4("(1099511627776,)"), b"1234"), config("npy"), "4 bytes are not float32"),
        (header(f4("(-1, -1)"), b"1234"), config("npy"), "not NPY"),
        (header("(" * 9000), config("npy"), "not NPY"),
        (header("[1]"), config("npy"), "not NPY"),
        (b"PK\x03\x04", config("npy"), "not NPY"),
        (b"", config("npy"), "not NPY"),
        (b"\xff", config("json"), "not JSON"),
        (b"[" * 100_000, config("json"), "not JSON"),
        (b'"text"', config("json"), "could not convert"),
        (b"[1, null]", config("json"), "NaN or infinity"),
        (b"[[1], [2, 3]]", config("json"), "inhomogeneous"),
        (b"[1" + b"0" * 999 + b"]", config("json"), "the array: "),
        (b'[{"x": 1}]', config("json"), "the array: "),
        (b'{"a": [1]}', config("json", key="b"), "has no b"),
        (b'{"a": [1], "b": [1, 2]}', config("json"), r"its arrays have \[1, 2\] samples"),
        (b"{}", config("json"), r"its arrays have \[\] samples"),
        (b'{"a": [1, 2], "t": [1, 0]}', config("json", times="t"), "t decreases"),
        (b'{"a": [1, 2], "t": [1]}', config("json", times="t"), r"t has the shape \[1\]"),
        (b'{"a": [1, 2], "t": [0, NaN]}', config("json", times="t"), "NaN or infinity"),
        (b"", config("csv"), r"its arrays have \[\] samples"),
        (b"x,x\n1,2\n", config("csv"), "has 2 columns with 1 different names"),
        (b"," * MAX_WIDTH, config("csv"), f"{MAX_WIDTH + 1} columns"),
        (b"x,y\n1\n", config("csv"), "not CSV"),
        (b"x\nup\n", config("csv"), "x: ValueError: could not convert"),
        (b'x\n"1', config("csv"), "not CSV"),
        (b"x\n" + b"1" * 200_000, config("csv"), "NaN or infinity"),
    ],
)
def test_what_is_no_track_is_refused(data: bytes, settings: TrackConfig, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_track(data, settings)
    assert len(str(caught.value)) < 1000


def test_a_sidecar_past_its_limit() -> None:
    with pytest.raises(ValueError, match=f"the limit is {MAX_TRACK_BYTES}"):
        read_track(b" " * (MAX_TRACK_BYTES + 1), config("json"))
    assert max_sidecar_bytes("npy", [config("npy")]) == MAX_TRACK_BYTES
    assert max_sidecar_bytes("b.npy", [config("npy")]) == MAX_SIDECAR_BYTES


@given(st.sampled_from(["npy", "json", "csv"]), st.binary(max_size=80), st.booleans())
def test_any_bytes_are_a_track_or_an_error(form: str, data: bytes, timed: bool) -> None:
    if form == "npy":
        data = header(data[2:].decode("latin-1").encode("ascii", "replace").decode(), data)
    settings = config(form, times="t") if timed else config(form)
    try:
        track = read_track(data, settings)
    except ValueError:
        return
    assert np.isfinite(track.at([0.0], "linear")[0]).all()


class TestSidecars:
    def test_a_track_does_not_enter_meta_but_its_neighbours_do(self) -> None:
        held = {"caption": "a cat", "action": ROWS, "t": [0, 1, 2], "more": 1}
        sidecars = Sidecars({"json": json.dumps(held).encode(), "b.npy": npy(np.zeros(3))})
        settings = [
            config("json", key="action", times="t"),
            config("b.npy").model_copy(update={"name": "b"}),
        ]
        found = sidecars.tracks(settings, "k")
        assert {name: len(track.values) for name, track in found.items()} == {"action": 3, "b": 3}
        caption, meta = sidecars.caption_and_meta(64)
        assert caption == "a cat"
        assert json.loads(meta or "") == {"json": {"caption": "a cat", "more": 1}}

    def test_a_sidecar_that_is_all_track_leaves_no_meta(self) -> None:
        for data, settings in ((b"[1]", config("json")), (b'{"a": [1]}', config("json", key="a"))):
            sidecars = Sidecars({"json": data})
            assert list(sidecars.tracks([settings], "k")) == ["action"]
            assert sidecars.caption_and_meta(64) == (None, None)

    def test_a_broken_track_is_named_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        sidecars = Sidecars({"npy": b"no array", "txt": b"a dog"})
        assert sidecars.tracks([config("npy")], "k") == {}
        caption, meta = sidecars.caption_and_meta(64)
        assert caption == "a dog"
        assert list(json.loads(meta or "")) == [PROBLEMS]
        assert json.loads(meta or "")[PROBLEMS]["npy"].startswith("track action: not NPY")
        assert "k: npy: track action: not NPY" in caplog.text

    @pytest.mark.parametrize(
        ("content", "problems", "says"),
        [
            ({}, {}, "action: no sidecar npy"),
            ({"npy": b"x"}, {}, "action: track action: not NPY"),
            ({}, {"npy": "has 9 bytes; the limit is 8"}, "action: has 9 bytes; the limit is 8"),
        ],
    )
    def test_a_required_track(
        self, content: dict[str, bytes], problems: dict[str, str], says: str
    ) -> None:
        sidecars = Sidecars(content, problems)
        with pytest.raises(QuarantineError, match=says) as caught:
            sidecars.tracks([config("npy", required=True)], "k")
        assert (caught.value.stage, caught.value.reason) == ("read", "no_track")
