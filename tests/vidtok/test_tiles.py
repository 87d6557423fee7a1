"""Tiles with a halo give what whole pictures give."""

import math
from functools import cache
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import fsq, tile_plan
from vidtok.presets import PRESETS
from vidtok.temporal import Stream
from vidtok.time_rule import RULES

ATOL = 1e-4
"""As for the recorded results: pictures of other sizes take other kernels, which round in another
order. The largest difference in 128 random cases was 3.4e-5."""

model_of = cache(small)


def frames_of(model: vidtok.Tokenizer) -> int:
    return 5 if model.config.causal else 4


@pytest.mark.parametrize(
    ("network", "size"),
    [("causal_v1_0", (128, 224)), ("causal_v1_1", (208, 136)), ("noncausal", (128, 224))],
)
def test_tiles_equal_the_whole_picture(network: str, size: tuple[int, int]) -> None:
    model = small(network, ch=4)
    video = synthetic_video(1, frames_of(model), *size)
    whole, tiled = model.encode(video), model.encode(video, tile=48)
    assert whole.indices is not None
    assert tiled.indices is not None
    assert torch.equal(tiled.indices, whole.indices)
    frames = model.decode(whole.latent, video.shape[2])
    found = model.decode_indices(whole.indices, video.shape[2], tile=48)
    torch.testing.assert_close(found, frames, rtol=0, atol=ATOL)


@settings(max_examples=12)
@given(
    st.sampled_from(sorted(RULES)),
    st.sampled_from(("fsq", "kl")),
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(1, 12),
    st.integers(1, 2),
)
def test_tiles_of_any_size_equal_whole_pictures_of_any_size(
    network: str, regularizer: str, h: int, w: int, cells: int, batch: int
) -> None:
    model = model_of(network, regularizer)
    cells = max(cells, math.isqrt(h * w // 12))  # 196 tiles of one cell would take a second
    video = synthetic_video(batch, frames_of(model) - (network == "causal_v1_1"), 8 * h, 8 * w)
    with mock.patch.object(fsq, "quantize", wraps=fsq.quantize) as rounding:
        whole, tiled = model.encode(video), model.encode(video, tile=8 * cells)
    if regularizer == "fsq":  # at a border between two levels, an error of 1e-6 changes a code
        values = torch.cat([call.args[0] for call in rounding.call_args_list])
        torch.testing.assert_close(values[batch:], values[:batch], rtol=0, atol=ATOL)
    else:
        torch.testing.assert_close(tiled.latent, whole.latent, rtol=0, atol=ATOL)
    frames = model.decode(whole.latent, video.shape[2])
    found = model.decode(whole.latent, video.shape[2], tile=8 * cells)
    torch.testing.assert_close(found, frames, rtol=0, atol=ATOL)


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
def test_tiles_of_chunks_of_a_stream_equal_the_whole_clip(regularizer: str) -> None:
    model = small("causal_v1_1", regularizer, ch=4)
    video = synthetic_video(1, 14, 200, 64)
    whole = model.encode(video)
    stream = model.encode_stream(14, 8, tile=40)
    pieces = [stream.push(piece) for piece in video.split(3, 2)]
    latent = torch.cat([piece.latent for piece in pieces if piece is not None], 2)
    torch.testing.assert_close(latent, whole.latent, rtol=0, atol=ATOL)
    frames = model.decode(whole.latent, 14)
    found = model.decode(whole.latent, 14, chunk_frames=8, tile=40)
    torch.testing.assert_close(found, frames, rtol=0, atol=ATOL)


SHAPES = [
    {},
    {"num_res_blocks": 2},
    {"ch_mult": (1, 2, 2), "tempo_ds": (1,), "tempo_us": (2,)},
    {"ch_mult": (1, 1, 1, 1), "spatial_ds": (1, 2), "spatial_us": (1, 2)},
]


@pytest.mark.parametrize("fewer_levels", [0, 1, 2])
@pytest.mark.parametrize("more", SHAPES)
@torch.no_grad()
def test_reaches_are_upper_bounds_and_tight(more: dict[str, object], fewer_levels: int) -> None:
    """Change one pixel or value far from the picture's ends and look how far the change is seen."""
    model = small("causal_v1_1", **more)
    config, s = model.config, model.config.spatial_factor
    depth = len(config.ch_mult) - fewer_levels
    rule = config.time_rule
    reach = tile_plan.encoder_reach(config, depth)
    cells = -(-reach // s)
    width = (2 * cells + 9) * s
    video = synthetic_video(1, 5, s, width).permute(0, 2, 3, 4, 1).contiguous()
    first = (cells + 4) * s
    other = video.clone()
    other[:, :, :, first] += 0.5
    seen, made = changed(model.encoder, video, other, rule, depth)
    step = width // made
    assert (first - reach) // step <= min(seen)  # the value whose pixels hold the farthest
    assert max(seen) * step <= first + reach
    assert (max(seen) - min(seen)) * step >= reach  # the halo is not much larger than it must be
    reach = tile_plan.decoder_reach(config, depth)
    step = 2 ** sum(level < depth for level in config.spatial_us)
    steps = -(-reach // step)
    channels = config.ch * config.ch_mult[min(depth, len(config.ch_mult) - 1)]
    middle = torch.randn(1, 4, 1, 2 * steps + 9, channels)
    other = middle.clone()
    other[:, :, :, steps + 4] += 0.5
    seen, _ = changed(model.decoder, middle, other, rule, depth)
    assert (steps + 4) * step - reach <= min(seen)
    assert max(seen) < (steps + 5) * step + reach
    assert max(seen) - min(seen) >= 1.5 * reach


def changed(
    network: torch.nn.Module, one: torch.Tensor, other: torch.Tensor, rule: object, depth: int
) -> tuple[list[int], int]:
    """Return the columns of the result that differ, and the number of columns."""
    made = [network.shallow(x.clone(), Stream(rule), depth) for x in (one, other)]  # type: ignore
    differ = (made[0] != made[1]).any(-1).any(2).any(1)[0]
    return differ.nonzero().flatten().tolist(), len(differ)


def test_a_halo_that_is_too_narrow_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("causal_v1_0", num_res_blocks=2)
    video = synthetic_video(1, 5, 208, 136)
    whole = model.encode(video).indices
    monkeypatch.setattr(tile_plan, "encoder_reach", lambda config, depth: 0)
    tiled = model.encode(video, tile=48).indices
    assert whole is not None
    assert tiled is not None
    assert (tiled != whole).any()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(8, 600), st.integers(1, 120))
def test_a_grid_covers_every_cell_once(h: int, w: int, tile: int, reach: int) -> None:
    config = PRESETS["vidtok_kl_causal_488_8chn"]
    halo = -(-reach // config.spatial_factor)
    seen = torch.zeros(h, w, dtype=torch.int64)
    for rows, columns in tile_plan.grid(config, h, w, tile, reach):
        seen[rows.start : rows.stop, columns.start : columns.stop] += 1
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        assert area <= max(1, (tile // config.spatial_factor) ** 2)
        for span, length in ((rows, h), (columns, w)):
            assert span.low == max(0, span.start - halo)
            assert span.high == min(length, span.stop + halo)
    assert (seen == 1).all()


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize(("tile", "most"), [(512, 1.35), (256, 1.9)])
def test_tiles_of_a_large_picture_compute_little_twice(
    tile: int, most: float, decoder: bool
) -> None:
    config = PRESETS["vidtok_fsq_causal_488_262144"]
    parts = tile_plan.plan(config, 20, 135, 240, tile, decoder=decoder)
    assert 1 <= parts.depth < len(config.ch_mult)
    cells = sum((r.high - r.low) * (c.high - c.low) for r, c in parts.tiles)
    assert 1 < cells / (135 * 240) <= most


@pytest.mark.parametrize(
    ("tile", "as_reference", "says"),
    [
        (7, False, "tile = 7: .* takes a multiple of 8 pixels; use 8"),
        (0, False, "tile = 0: .* use 8"),
        (100, False, "tile = 100: .* use 96 or 104"),
        (True, False, "tile = True: must be a number of pixels, 'auto' or None"),
        ("large", False, "tile = 'large': must be"),
        (64, True, "tile = 64: the reference has no exact tiles"),
        ("auto", True, "tile = auto: the reference has no exact tiles"),
    ],
)
def test_refusals(tile: int, as_reference: bool, says: str) -> None:
    model = small("causal_v1_1")
    with pytest.raises(ValueError, match=says):
        model.encode(synthetic_video(1, 5, 16, 16), tile=tile, as_reference=as_reference)
    with pytest.raises(ValueError, match=says):
        model.decode(torch.zeros(1, 3, 2, 2, 2), tile=tile, as_reference=as_reference)
