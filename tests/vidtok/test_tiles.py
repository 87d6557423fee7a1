"""Tiles with a halo give what whole pictures give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import tiles
from vidtok.presets import PRESETS
from vidtok.temporal import Stream


def frames_of(model: vidtok.Tokenizer) -> int:
    return 5 if model.config.causal else 4


@pytest.mark.parametrize(
    ("network", "size"),
    [("causal_v1_0", (128, 224)), ("causal_v1_1", (208, 136)), ("noncausal", (128, 224))],
)
def test_tiles_equal_the_whole_picture(network: str, size: tuple[int, int]) -> None:
    model = small(network)
    video = synthetic_video(1, frames_of(model), *size)
    whole, tiled = model.encode(video), model.encode(video, tile=48)
    assert whole.indices is not None
    assert tiled.indices is not None
    assert torch.equal(tiled.indices, whole.indices)
    frames = model.decode(whole.latent, video.shape[2])
    found = model.decode_indices(whole.indices, video.shape[2], tile=48)
    torch.testing.assert_close(found, frames, rtol=0, atol=3e-5)


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
def test_tiles_of_chunks_of_a_stream_equal_the_whole_clip(regularizer: str) -> None:
    model = small("causal_v1_1", regularizer)
    video = synthetic_video(1, 14, 200, 64)
    whole = model.encode(video)
    stream = model.encode_stream(14, 8, tile=40)
    pieces = [stream.push(piece) for piece in video.split(3, 2)]
    latent = torch.cat([piece.latent for piece in pieces if piece is not None], 2)
    torch.testing.assert_close(latent, whole.latent, rtol=0, atol=3e-5)
    frames = model.decode(whole.latent, 14)
    found = model.decode(whole.latent, 14, chunk_frames=8, tile=40)
    torch.testing.assert_close(found, frames, rtol=0, atol=3e-5)


SHAPES = [
    {},
    {"num_res_blocks": 2},
    {"ch_mult": (1, 2, 2), "tempo_ds": (1,), "tempo_us": (2,)},
    {"ch_mult": (1, 1, 1, 1), "spatial_ds": (1, 2), "spatial_us": (1, 2)},
]


@pytest.mark.parametrize("more", SHAPES)
@torch.no_grad()
def test_reaches_are_upper_bounds_and_tight(more: dict[str, object]) -> None:
    """Change one pixel or cell far from the picture's ends and look how far the change is seen."""
    model = small("causal_v1_1", **more)
    config, s = model.config, model.config.spatial_factor
    rule = config.time_rule
    reach = tiles.encoder_reach(config)
    cells = -(-reach // s)
    width = (2 * cells + 9) * s
    video = synthetic_video(1, 5, s, width).permute(0, 2, 3, 4, 1).contiguous()
    first = (cells + 4) * s
    other = video.clone()
    other[:, :, :, first] += 0.5
    seen = _changed(model.encoder.levels, video, other, rule)
    assert (first - reach) // s - 1 <= min(seen)
    assert max(seen) <= (first + reach) // s + 1
    assert max(seen) - min(seen) >= reach // s  # the halo is not much larger than it must be
    reach = tiles.decoder_reach(config)
    cells = -(-reach // s)
    middle = torch.randn(1, 2, 1, 2 * cells + 9, config.ch * config.ch_mult[-1])
    other = middle.clone()
    other[:, :, :, cells + 4] += 0.5
    seen = _changed(model.decoder.levels, middle, other, rule)
    assert (cells + 4) * s - reach <= min(seen)
    assert max(seen) < (cells + 5) * s + reach
    assert max(seen) - min(seen) >= 1.5 * reach


def _changed(levels: object, one: torch.Tensor, other: torch.Tensor, rule: object) -> list[int]:
    made = [levels(x.clone(), Stream(rule)) for x in (one, other)]  # type: ignore
    return (made[0] != made[1]).any(-1).any(2).any(1)[0].nonzero().flatten().tolist()


def test_a_halo_that_is_too_narrow_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("causal_v1_0")
    video = synthetic_video(1, 5, 208, 136)
    whole = model.encode(video).indices
    monkeypatch.setattr(tiles, "encoder_reach", lambda _: 8)
    tiled = model.encode(video, tile=48).indices
    assert whole is not None
    assert tiled is not None
    assert (tiled != whole).any()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(8, 600), st.integers(1, 120))
def test_a_grid_covers_every_cell_once(h: int, w: int, tile: int, reach: int) -> None:
    config = PRESETS["vidtok_kl_causal_488_8chn"]
    halo = -(-reach // config.spatial_factor)
    seen = torch.zeros(h, w, dtype=torch.int64)
    for rows, columns in tiles.grid(config, h, w, tile, reach):
        seen[rows.start : rows.stop, columns.start : columns.stop] += 1
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        assert area <= max(1, (tile // config.spatial_factor) ** 2)
        for span, length in ((rows, h), (columns, w)):
            assert span.low == max(0, span.start - halo)
            assert span.high == min(length, span.stop + halo)
    assert (seen == 1).all()


@pytest.mark.parametrize(("tile", "as_reference"), [(7, False), (0, False), (64, True)])
def test_refusals(tile: int, as_reference: bool) -> None:
    model = small("causal_v1_1")
    with pytest.raises(ValueError, match=f"tile = {tile}: "):
        model.encode(synthetic_video(1, 5, 16, 16), tile=tile, as_reference=as_reference)
    with pytest.raises(ValueError, match=f"tile = {tile}: "):
        model.decode(torch.zeros(1, 3, 2, 2, 2), tile=tile, as_reference=as_reference)
