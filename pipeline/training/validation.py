"""How well a tokenizer in training does on the held-out clips, in numbers and in a picture."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.evaluation.pictures import Strip, draw
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
        PSNR in dB and SSIM, means over clips; for FSQ the bits per token that the use of each
        channel's levels amounts to, and the share of levels used; and a PNG of some clips with
        their reconstructions and errors.
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
