"""Scores of a tokenizer in training on held-out clips, and a picture of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.decode import ClipRule, Decoder
from pipeline.errors import ConfigError
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Sample
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader
from pipeline.tokenizers.pictures import Strip, draw
from pipeline.training.clip_config import ClipSourceConfig
from vidtok import Tokenizer
from vidtok.evaluation.codebook import CodebookUse
from vidtok.evaluation.meter import score_clip

_SHOWN = 4


@torch.no_grad()
def validate(
    tokenizer: Tokenizer, clips: Sequence[tuple[str, Tensor]]
) -> tuple[dict[str, float], bytes]:
    """Reconstruct held-out clips one by one.

    Args:
        tokenizer: in eval mode.
        clips: name and frames, uint8 `[T, H, W, 3]`.

    Returns:
        PSNR in dB and SSIM, means over clips; for FSQ also `code_bits`, the sum of the channels'
        entropies in bits per token, and `levels_used`, the fraction of levels in use. Then a PNG of
        some clips with their reconstructions and errors.
    """
    levels = tokenizer.config.fsq_levels
    use = CodebookUse(levels) if levels else None
    scores: dict[str, list[float]] = {}
    strips: list[Strip] = []
    for name, frames in clips:
        x = (frames.to(tokenizer.device).float() / 127.5 - 1).permute(3, 0, 1, 2)[None]
        encoded = tokenizer.encode(x)
        y = tokenizer.decode(encoded.latent, num_frames=x.shape[2]).float()
        for metric, values in score_clip(x, y).items():
            scores.setdefault(metric, []).append(float(values.mean()))
        if use is not None:
            assert encoded.indices is not None
            use.update(encoded.indices)
        if len(strips) < 2 * _SHOWN:
            original = x.cpu()
            strips.append(Strip(name.rsplit("/", 1)[-1], original))
            strips.append(Strip("reconstruction", y.cpu(), original))
    means = {metric: sum(values) / len(values) for metric, values in scores.items()}
    if use is not None:
        counts = use.level_counts()
        used = sum(count > 0 for channel in counts for count in channel)
        means["levels_used"] = used / sum(levels)
        means["code_bits"] = float(use.summary()["channel_bound_bits"])
    return means, draw(strips)


def held_out_clips(config: ClipSourceConfig, *, fps: float | None) -> list[tuple[str, Tensor]]:
    """Return the first clip of every video of a source, cropped at the centre.

    Args:
        config: the source and the clip's shape; its other settings are not used.
        fps: frames per second of presentation time; None takes every frame. A video that is too
            short holds its last frame.

    Returns:
        Name of the video, `unit/key`, and its clip, uint8 `[T, H, W, 3]`; in the source's order.

    Raises:
        ConfigError: a video cannot be decoded. Scores over fewer videos would not be comparable.
        StoreError: the source cannot be read.
    """
    rule = ClipRule(
        frames=config.frames, height=config.height, width=config.width, fps=fps, short="pad"
    )
    with Decoder(rule) as decoder:
        return [
            (f"{unit.unit}/{sample.key}", _first_clip(decoder, sample, unit.unit))
            for unit in plan_units(config, single=True)
            for sample in SampleReader(config).read(unit)
        ]


def _first_clip(decoder: Decoder, sample: Sample | Quarantined, unit: str) -> Tensor:
    if isinstance(sample, Sample):
        try:
            _, frames = next(decoder.decode(sample, unit))
            return torch.from_numpy(frames)
        except QuarantineError as error:
            sample = Quarantined.of(error, unit=unit, key=sample.key)
    raise ConfigError(
        f"held-out video {sample.key}: {sample.reason}: {sample.detail}; repair the file, or add"
        " its key to exclude"
    )
