"""The weights in the package: what they are worth on real clips that training never saw."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vidtok
from pipeline.config.job import TokenizerSpec
from pipeline.decode import ClipRule, Decoder
from pipeline.evaluation.baseline_resize import ShrinkAndEnlarge
from pipeline.records import Sample
from pipeline.tokenizers.facts import describe_bundled
from pipeline.tokenizers.models import describe, open_tokenizer
from tests.assets import VIDEOS
from vidtok.evaluation.codebook import CodebookUse
from vidtok.evaluation.meter import score_clip

CLIPS = sorted(VIDEOS.glob("*.mp4"))
NAMES = {"vidtok_fsq_causal_488_262144_tiny": 3.0, "vidtok_kl_causal_488_8chn_tiny": 5.0}
"""By how many dB each has to beat its own grid, shrunk and enlarged."""
STREAMS = {f"{name}_v1_1": name for name in NAMES}
"""Name of each model for streams, and of the one that it was trained from."""


@cache
def clips() -> list[Tensor]:
    """The first clip of each video, `[1, 3, 17, 128, 128]`."""
    rule = ClipRule(frames=17, height=128, width=128, fps=8.0, short="drop")
    found = []
    with Decoder(rule) as decoder:
        for path in CLIPS:
            sample = Sample(key=path.stem, video=str(path), video_name=path.name)
            _, frames = next(decoder.decode(sample, "u"))
            found.append(torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1)
    assert len(found) == 3
    return found


@cache
def coded(name: str, number: int) -> tuple[vidtok.Encoded, Tensor]:
    """What a model makes of a clip, and the clip decoded again."""
    model = vidtok.load(name)
    encoded = model.encode(clips()[number])
    return encoded, model.decode(encoded.latent, num_frames=17)


def means(scores: list[dict[str, Tensor]]) -> dict[str, float]:
    return {
        name: float(torch.cat([s[name].flatten() for s in scores]).mean()) for name in scores[0]
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_beats_its_own_grid_and_uses_its_codebook(name: str) -> None:
    config = vidtok.load(name).config
    assert config == vidtok.build(name).config
    shrink = ShrinkAndEnlarge(config, "shrink")
    ours, grids = [], []
    use = CodebookUse(config.fsq_levels) if config.fsq_levels else None
    for number, clip in enumerate(clips()):
        encoded, decoded = coded(name, number)
        if use is not None:
            use.update(encoded.indices)
        ours.append(score_clip(clip, decoded))
        grids.append(score_clip(clip, shrink.reconstruct(clip, "c").video))
    mine, grid = means(ours), means(grids)
    assert mine["psnr"] > grid["psnr"] + NAMES[name]
    assert mine["ssim"] > grid["ssim"]
    if use is not None:
        summary = use.summary()
        assert all(share >= 0.8 for share in summary["channel_share_used"])
        assert summary["channel_bound_bits"] > summary["codebook_bits"] - 3


@pytest.mark.parametrize("name", STREAMS)
def test_the_model_for_streams_is_nearly_as_good_on_a_clip(name: str) -> None:
    assert CLIPS[0].name == "bikes.mp4", "its clip has a cut, which v1.1 blurs"
    both = [
        [score_clip(clips()[n], coded(model, n)[1]) for n in range(3)]
        for model in (name, STREAMS[name])
    ]
    ours, theirs = (means(scores[1:]) for scores in both)
    assert ours["psnr"] > theirs["psnr"] - 0.1
    assert ours["ssim"] > theirs["ssim"] - 0.005
    ours, theirs = (means(scores[:1]) for scores in both)
    assert ours["psnr"] > theirs["psnr"] - 2


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_in_pieces_is_the_clip(name: str) -> None:
    model = vidtok.load(name)
    clip = clips()[0][..., 32:80, 40:104]
    whole = model.encode(clip)
    stream = model.encode_stream(17, chunk_frames=8)
    parts = [stream.push(piece) for piece in clip.split(5, 2)]
    latent = torch.cat([part.latent for part in parts if part is not None], 2)
    torch.testing.assert_close(latent, whole.latent, rtol=0, atol=1e-4)
    decoded = model.decode(whole.latent, num_frames=17)
    again = model.decode(whole.latent, num_frames=17, chunk_frames=8)
    torch.testing.assert_close(again, decoded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*NAMES, *STREAMS])
def test_a_bundled_model_is_small(name: str) -> None:
    path = vidtok.bundled_weights(name)
    assert path is not None
    assert path.stat().st_size < 6e6


@pytest.mark.parametrize("name", [*NAMES, *STREAMS])
def test_a_driver_describes_bundled_weights_as_their_model_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TokenizerSpec(name="t", model=name)
    found = describe_bundled(spec)
    assert found is not None
    assert found == describe(open_tokenizer(spec), spec)
    assert describe_bundled(spec.model_copy(update={"weights": "random"})) is None
    pointer = tmp_path / "w.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    monkeypatch.setattr("pipeline.tokenizers.facts.bundled_weights", lambda _: pointer)
    assert describe_bundled(spec) is None, "the model is opened, which says what is wrong"
