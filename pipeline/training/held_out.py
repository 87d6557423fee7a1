"""The fixed clips that a tokenizer in training is measured on, cut as the corpus job cuts clips."""

import torch
from torch import Tensor

from pipeline.decode import ClipRule, Decoder
from pipeline.errors import ConfigError, QuarantineError
from pipeline.records import Quarantined, Sample
from pipeline.samples import read_samples
from pipeline.training.clip_source import ClipSourceConfig
from pipeline.training.segments import is_excluded, plan_videos


def held_out_clips(config: ClipSourceConfig, *, fps: float | None) -> list[tuple[str, Tensor]]:
    """Return the first clip of every video of a source: centre crop, nothing drawn at random.

    Args:
        config: the source; of its other settings only the clip's shape counts.
        fps: frames per second of presentation time; None takes every frame. A video that is too
            short holds its last frame.

    Returns:
        Name of the video, `unit/key`, and its clip, uint8 `[T, H, W, 3]`; in the source's order.

    Raises:
        ConfigError: a video cannot be decoded. Results over fewer videos would compare to none.
        StoreError: the source cannot be read now.
    """
    rule = ClipRule(
        frames=config.frames, height=config.height, width=config.width, fps=fps, short="pad"
    )
    with Decoder(rule) as decoder:
        return [
            (f"{unit.unit}/{sample.key}", _first_clip(decoder, sample, unit.unit))
            for unit in plan_videos(config)
            for sample in read_samples(
                unit, storage_options=config.storage_options, max_video_mb=config.max_video_mb
            )
            if not is_excluded(config, sample.key)
        ]


def _first_clip(decoder: Decoder, sample: Sample | Quarantined, unit: str) -> Tensor:
    if isinstance(sample, Quarantined):
        raise ConfigError(_refusal(sample.key, sample.reason, sample.detail))
    try:
        _, frames = next(decoder.decode(sample, unit))
    except QuarantineError as error:
        raise ConfigError(_refusal(sample.key, error.reason, error.detail)) from error
    return torch.from_numpy(frames)


def _refusal(key: str, reason: str, detail: str) -> str:
    return f"held-out video {key}: {reason}: {detail}; mend it, or name it in exclude"
