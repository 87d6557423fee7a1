"""Tiles that are chosen by the free memory, which these tests make up."""

import weakref
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import free_memory, tile_plan, tiles
from vidtok.presets import PRESETS
from vidtok.temporal import Stream
from vidtok.tile_plan import NoRoomError, Work

CPU = torch.device("cpu")
RELEASED = PRESETS["vidtok_fsq_causal_488_262144"]


def set_free(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: free)


@pytest.mark.parametrize("decoder", [False, True])
def test_the_largest_tile_that_fits_is_chosen(
    decoder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(RELEASED, decoder, 20, 1080, 1920, torch.float32, CPU)
    whole = work.peak_bytes()
    set_free(monkeypatch, whole)
    assert work.largest_tile() is None
    found = []
    for part in (2, 4, 8):
        free = whole / part
        set_free(monkeypatch, free)
        tile = work.largest_tile()
        assert tile is not None
        assert tile % 8 == 0
        larger = range(tile + 8, 1440, 8)  # up to a tile of the whole area
        assert work.peak_bytes(tile) <= free < min(map(work.peak_bytes, larger))
        found.append(tile)
    assert found == sorted(found, reverse=True)


NOT_MONOTONE = Work(RELEASED, True, 20, 480, 848, torch.float16, CPU)
"""A decoder that needs most memory in the smallest tiles, because they have the widest halos."""


def test_a_tile_is_found_where_smaller_tiles_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    work = NOT_MONOTONE
    assert work.peak_bytes(64) > 1.3 * work.peak_bytes(120)
    set_free(monkeypatch, work.peak_bytes(120))
    assert work.largest_tile() == 120
    set_free(monkeypatch, work.peak_bytes(64))
    assert (work.largest_tile() or 0) > 120


def test_no_room_for_any_tile_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 100 << 20)
    with pytest.raises(NoRoomError) as failed:
        NOT_MONOTONE.largest_tile()
    least = min(map(NOT_MONOTONE.peak_bytes, range(64, 640, 8)))
    assert str(failed.value) == (
        f"clips of 1×20×480×848: need {least >> 20} MiB in tiles of 120 pixels, cpu has 100 MiB"
        " for them; take fewer frames at a time, or free memory"
    )
    assert isinstance(failed.value, torch.OutOfMemoryError)


@pytest.mark.parametrize("decoder", [False, True])
def test_each_smaller_tile_needs_less_down_to_the_least(decoder: bool) -> None:
    work = Work(RELEASED, decoder, 20, 480, 848, torch.float16, CPU)
    tried, needs = list[int | None]([None]), [work.peak_bytes()]
    while (tile := work.smaller_tile(tried[-1])) is not None:
        tried.append(tile)
        needs.append(work.peak_bytes(tile))
    assert all(2 * need <= before for before, need in pairwise(needs[:-1]))
    assert needs[-2] > needs[-1] == min(map(work.peak_bytes, range(64, 640, 8)))
    assert tried[-1] == (120 if decoder else 80)
    assert work.smaller_tile(64) == (120 if decoder else 80)


@pytest.mark.parametrize(("decoder", "inside"), [(False, 23), (True, 20)])  # copies in front
def test_a_model_names_the_tile_to_try_next(
    decoder: bool, inside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vidtok.build("vidtok_fsq_causal_488_262144_tiny", seed=0)
    work = Work(model.config, decoder, inside, 480, 848, torch.float32, CPU)

    def found(tile: tiles.Tile) -> int | None:
        return model.smaller_tile((19, 480, 848), tile, decoder=decoder)

    for tile in (None, 256):
        assert found(tile) == work.smaller_tile(tile)
    set_free(monkeypatch, work.peak_bytes(256))
    chosen = work.largest_tile()
    assert chosen is not None
    assert found("auto") == work.smaller_tile(chosen)
    set_free(monkeypatch, 1 << 40)
    assert found("auto") == work.smaller_tile(None)
    with pytest.raises(ValueError, match="use 96 or 104"):
        found(100)


def test_small_work_asks_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "free_bytes", None)
    model = small("causal_v1_0")
    video = synthetic_video(2, 5, 16, 24)
    encoded = model.encode(video, tile="auto")
    assert torch.equal(encoded.latent, model.encode(video).latent)
    model.decode(encoded.latent, tile="auto")
    with pytest.raises(TypeError):
        Work(RELEASED, False, 20, 1080, 1920, torch.float32, CPU).largest_tile()


def test_a_batch_is_split_before_clips_are_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_plan, "ALWAYS_FITS", 0)
    model, clips = small("causal_v1_0"), torch.zeros(16, 3, 5, 64, 64)
    one = Work(model.config, False, 5, 64, 64, torch.float32, CPU).peak_bytes()

    def sizes(free: float, tile: tiles.Tile = "auto") -> list[int]:
        set_free(monkeypatch, free)
        parts = tiles.batches(model.encoder, model.config, clips, torch.float32, None, tile)
        return [len(part) for part in parts]

    assert sizes(1 << 40) == [16]
    for room in (12, 6, 3):
        largest = max(sizes(room * one))
        assert room / 4 < largest <= room
    assert sizes(0.5 * one) == [1] * 16
    assert sizes(0, None) == sizes(0, 64) == [16]
    assert sizes(0, 56) == [1] * 16


@pytest.mark.parametrize("network", ["causal_v1_0", "causal_v1_1", "noncausal"])
def test_scarce_memory_changes_no_result(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(network)
    video = synthetic_video(2, 4 if network == "noncausal" else 5, 96, 136)
    whole = model.encode(video)
    frames = model.decode(whole.latent, video.shape[2])
    monkeypatch.setattr(tile_plan, "ALWAYS_FITS", 0)
    monkeypatch.setattr(tile_plan, "SMALLEST_TILE", 16)
    depths = []

    def shallow(module: torch.nn.Module) -> Any:
        original = module.shallow

        def recorded(x: Tensor, stream: Stream, depth: int) -> Tensor:
            depths.append(tuple(x.shape[:1]))
            return original(x, stream, depth)  # type: ignore[operator,no-any-return]

        return recorded

    for decoder, module in ((False, model.encoder), (True, model.decoder)):
        monkeypatch.setattr(module, "shallow", shallow(module))
        frames_inside = video.shape[2] + (3 if network == "causal_v1_0" else 0)
        size = (frames_inside if not decoder else whole.latent.shape[2] * 4, 96, 136)
        set_free(
            monkeypatch, 0.6 * Work(model.config, decoder, *size, torch.float32, CPU).peak_bytes()
        )
        depths.clear()
        if decoder:
            found = model.decode(whole.latent, video.shape[2], tile="auto")
            torch.testing.assert_close(found, frames, rtol=0, atol=1e-4)
        else:
            indices = model.encode(video, tile="auto").indices
            assert indices is not None
            assert torch.equal(indices, whole.indices)  # type: ignore[arg-type]
        assert len(depths) > 2
        assert set(depths) == {(1,)}


def test_a_stream_keeps_the_tiles_of_its_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("causal_v1_1", "kl")
    video = synthetic_video(1, 13, 96, 136)
    whole = model.encode(video).latent
    monkeypatch.setattr(tile_plan, "ALWAYS_FITS", 0)
    set_free(
        monkeypatch, 0.7 * Work(model.config, False, 5, 96, 136, torch.float32, CPU).peak_bytes()
    )
    stream = model.encode_stream(13, 4, tile="auto")
    parts = [stream.push(video[:, :, :5])]
    set_free(monkeypatch, 1 << 40)  # another choice now would lose the state of the tiles
    parts.append(stream.push(video[:, :, 5:]))
    latent = torch.cat([part.latent for part in parts if part is not None], 2)
    torch.testing.assert_close(latent, whole, rtol=0, atol=1e-4)


class Live(TorchDispatchMode):
    """Measures the largest number of bytes of tensors that are alive at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self._now += storage.nbytes()
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("name", ["vidtok_fsq_causal_488_32768", "vidtok_kl_causal_288_8chn_v1_1"])
def test_the_estimate_is_an_upper_bound_and_not_far_from_it(name: str, decoder: bool) -> None:
    """The `meta` device takes the branches of a GPU and computes nothing."""
    config = PRESETS[name]
    with torch.device("meta"):
        network = (tiles.Decoder if decoder else tiles.Encoder)(config)
        size = (20 // config.temporal_factor, 32, 32, config.z_channels) if decoder else ()
        x = torch.empty(1, *(size or (20, 256, 256, 3)))
    for tile in (None, 128):
        with torch.no_grad(), Live() as live:
            tiles.in_tiles(network, config, tile)(x, Stream(config.time_rule))
        estimate = Work(config, decoder, 20, 256, 256, torch.float32, x.device).peak_bytes(tile)
        assert live.peak <= estimate <= 2.5 * live.peak


def test_tiles_take_no_copy_of_the_video() -> None:
    """A video with the strides of the network needs none, and one with others costs as much."""
    with torch.device("meta"):
        model = vidtok.build("vidtok_fsq_causal_488_262144_tiny")
        first = torch.empty(1, 3, 13, 512, 512)
        last = torch.empty(1, 13, 512, 512, 3).permute(0, 4, 1, 2, 3)
    peaks = []
    for video in (first, last):
        with Live() as live:
            model.encode(video, tile=256, check_range=False)
        peaks.append(live.peak)
    assert abs(peaks[0] - peaks[1]) < 0.1 * first.nbytes
