import dataclasses

import pytest
import torch

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok.presets import PRESETS

CAUSAL, NONCAUSAL, LONG = (small(n) for n in ("causal_v1_0", "noncausal", "causal_v1_1"))
KL = small("causal_v1_0", "kl")


def _video(frames: int = 17, height: int = 16, width: int = 24, batch: int = 1) -> torch.Tensor:
    return synthetic_video(batch, frames, height, width)


def test_fsq_gives_codes_and_their_indices() -> None:
    encoded = CAUSAL.encode(_video())
    assert encoded.indices.dtype == torch.int32
    assert encoded.indices.shape == (1, 5, 2, 3)
    assert encoded.latent.shape == (1, 3, 5, 2, 3) == (1, *CAUSAL.config.latent_shape(17, 16, 24))
    assert encoded.mean is None
    assert encoded.logvar is None
    by_latent, by_index = CAUSAL.decode(encoded.latent), CAUSAL.decode_indices(encoded.indices)
    assert torch.equal(by_latent, by_index)
    assert by_index.shape == (1, 3, 17, 16, 24)
    with pytest.raises(ValueError, match="no posterior"):
        encoded.sample(seed=0)


def test_kl_gives_mean_and_logvar_and_samples_only_when_asked() -> None:
    encoded = KL.encode(_video())
    assert encoded.indices is None
    assert torch.equal(encoded.latent, encoded.mean)
    assert encoded.logvar.shape == encoded.mean.shape
    assert torch.equal(encoded.sample(seed=3), encoded.sample(seed=3))
    assert not torch.equal(encoded.sample(seed=3), encoded.sample(seed=4))
    with pytest.raises(ValueError, match="has no code indices"):
        KL.decode_indices(torch.zeros(1, 5, 2, 3, dtype=torch.int32))


def test_sampling_leaves_the_global_generator_alone() -> None:
    encoded = KL.encode(_video())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    encoded.sample(seed=1)
    vidtok.build(KL.config, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_gives_the_same_untrained_weights() -> None:
    one, same, other = (vidtok.build(KL.config, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("model", [CAUSAL, NONCAUSAL, LONG, KL], ids=lambda m: m.config.name)
def test_a_clip_s_latent_does_not_depend_on_its_neighbours(model: vidtok.Tokenizer) -> None:
    frames = 17 if model.config.causal else 16
    clips = synthetic_video(3, frames, 16, 24)
    together = model.encode(clips).latent
    alone = torch.cat([model.encode(clip[None]).latent for clip in clips])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("model", [CAUSAL, LONG], ids=lambda m: m.config.name)
def test_causal_latents_do_not_see_the_future(model: vidtok.Tokenizer) -> None:
    video = _video(17)
    changed = video.clone()
    changed[:, :, 9:] = -changed[:, :, 9:]
    before, after = model.encode(video).latent, model.encode(changed).latent
    torch.testing.assert_close(before[:, :, :3], after[:, :, :3], rtol=0, atol=2e-5)
    assert not torch.equal(before[:, :, 3:], after[:, :, 3:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
def test_bytes_give_what_their_floats_give(regularizer: str, dtype: torch.dtype) -> None:
    """All 256 values, in frames whose channels are last in memory."""
    model = small("causal_v1_1", regularizer).to(dtype)
    frames = (torch.arange(2 * 17 * 16 * 24 * 3) * 7 // 3 % 256).to(torch.uint8)
    assert len(frames.unique()) == 256
    video = frames.view(2, 17, 16, 24, 3).movedim(-1, 1)
    before = video.clone()
    expected = model.encode(video / 127.5 - 1).latent
    assert torch.equal(model.encode(video).latent, expected)
    assert torch.equal(model.encode((video / 255 - 0.5) / 0.5).latent, expected)
    assert torch.equal(model.encode_stream(17, 20).push(video).latent, expected)
    assert torch.equal(video, before)


def test_the_range_is_checked_unless_the_caller_answers_for_it() -> None:
    video = _video() * 2
    assert CAUSAL.encode(video, check_range=False).latent.isfinite().all()
    with pytest.raises(ValueError, match="or pass them as uint8"):
        LONG.encode_stream(17, 4).push(video)
    assert LONG.encode_stream(17, 20, check_range=False).push(video) is not None


@pytest.mark.parametrize(
    ("model", "video", "text"),
    [
        (CAUSAL, _video(16), "frames = 16: .* takes 1 [+] 4k frames; use 13 or 17"),
        (CAUSAL, _video(18), "use 17 or 21"),
        (CAUSAL, _video(3), "use 1 or 5"),
        (NONCAUSAL, _video(17), "takes a multiple of 4 frames; use 16 or 20"),
        (NONCAUSAL, _video(3), "use 4"),
        (CAUSAL, _video(17, 50, 64), "height = 50: .* takes a multiple of 8 pixels; use 48 or 56"),
        (CAUSAL, _video(17, 64, 70), "width = 70: .* use 64 or 72"),
        (CAUSAL, _video(17, 4, 16), "height = 4: .* use 8"),
        (CAUSAL, _video() * 2, r"values from -2 to 2: must lie in \[-1, 1\]"),
        (CAUSAL, _video() * torch.nan, "values from nan"),
        (
            CAUSAL,
            (_video() * 100).to(torch.int16),
            "video of torch.int16: must be float in .* or uint8",
        ),
        (CAUSAL, _video()[0], r"shape \(3, 17, 16, 24\): must be \[B, 3, T, H, W\]"),
        (CAUSAL, _video()[:, :2], r"must be \[B, 3, T, H, W\]"),
        (CAUSAL, _video()[:0], "is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_input_is_refused_with_the_mend(
    model: vidtok.Tokenizer, video: torch.Tensor, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        model.encode(video)


@pytest.mark.parametrize(("frames", "latent", "back"), [(1, 1, 1), (16, 4, 13), (18, 5, 17)])
def test_as_reference_takes_any_length(frames: int, latent: int, back: int) -> None:
    encoded = CAUSAL.encode(_video(frames), as_reference=True)
    assert encoded.latent.shape[2] == latent
    assert CAUSAL.decode(encoded.latent, as_reference=True).shape[2] == back


def test_as_reference_floors_the_size() -> None:
    encoded = CAUSAL.encode(_video(17, 50, 70), as_reference=True)
    assert encoded.latent.shape[3:] == (6, 8)


def test_wrong_latents_and_indices_are_refused() -> None:
    indices = CAUSAL.encode(_video()).indices
    with pytest.raises(ValueError, match="has 0 to 511"):
        CAUSAL.decode_indices(indices + 512)
    with pytest.raises(ValueError, match="must be integers"):
        CAUSAL.decode_indices(indices.float())
    with pytest.raises(ValueError, match=r"decodes \[B, 3, t, h, w\]"):
        CAUSAL.decode(torch.zeros(1, 4, 5, 2, 3))
    with pytest.raises(ValueError, match="must be float; for indices, use decode_indices"):
        CAUSAL.decode(torch.zeros(1, 3, 5, 2, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="is empty"):
        CAUSAL.decode(torch.zeros(0, 3, 5, 2, 3))
    with pytest.raises(
        ValueError, match="num_frames = 21: would be 6 latent frames, but the latent has 5"
    ):
        CAUSAL.decode_indices(indices, num_frames=21)


def test_num_frames_names_the_clip_among_those_a_v1_1_latent_may_stand_for() -> None:
    latent = LONG.encode(_video(18)).latent
    assert LONG.decode(latent).shape[2] == 20
    assert LONG.decode(latent, num_frames=18).shape[2] == 18
    assert torch.equal(LONG.decode(latent, num_frames=18), LONG.decode(latent)[:, :, 2:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype: torch.dtype) -> None:
    half = small("causal_v1_0", "kl").to(dtype)
    encoded, exact = half.encode(_video()), KL.encode(_video())
    assert encoded.mean.dtype == torch.float32
    error = (encoded.mean - exact.mean).std() / exact.mean.std()
    assert 0 < error < (0.05 if dtype == torch.bfloat16 else 0.01)
    assert half.decode(encoded.mean).dtype == dtype


@pytest.mark.parametrize("model", [CAUSAL, NONCAUSAL, LONG], ids=lambda m: m.config.name)
def test_with_gradients_the_same_is_computed_and_all_weights_learn(model: vidtok.Tokenizer) -> None:
    """Without gradients layers work in place and in pieces, with them out of place and whole."""
    from vidtok.temporal import Stream

    x = _video(17 if model.config.causal else 16).permute(0, 2, 3, 4, 1).contiguous()
    rule = model.config.time_rule
    with torch.no_grad():
        h = model.encoder(x.clone(), Stream(rule))
        y = model.decoder(h, Stream(rule))
    latent = model.encoder(x, Stream(rule))
    frames = model.decoder(latent, Stream(rule))
    torch.testing.assert_close(latent.detach(), h, rtol=0, atol=2e-5)
    torch.testing.assert_close(frames.detach(), y, rtol=0, atol=2e-5)
    model.zero_grad()
    frames.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad()


def test_configurations_are_frozen_hashable_and_tell_v1_0_from_v1_1() -> None:
    one = PRESETS["vidtok_fsq_causal_488_32768"]
    other = PRESETS["vidtok_fsq_causal_488_32768_v1_1"]
    assert len({one, other, dataclasses.replace(one)}) == 2
    assert one.digest != other.digest
    assert dataclasses.replace(one, name="renamed").digest == one.digest
    assert vidtok.TokenizerConfig.from_dict(one.to_dict()) == one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.ch = 64  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fsq_levels": (8, 8)}, "2 entries for z_channels = 5"),
        ({"fsq_levels": ()}, "FSQ needs the levels"),
        ({"fsq_levels": (8, 8, 8, 8, 1)}, "needs 2 levels or more"),
        ({"spatial_ds": (0, 2)}, "only at levels that also resample space"),
        ({"network": "causal"}, "network = 'causal': must be one of"),
    ],
)
def test_contradicting_hyper_parameters_are_refused(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(PRESETS["vidtok_fsq_causal_488_32768"], **change)


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="no tokenizer is called 'nope': must be one of vidtok_"):
        vidtok.build("nope")
