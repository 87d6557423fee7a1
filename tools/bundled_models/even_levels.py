"""Stretch FSQ's latents so that all levels are used, and refit the decoder's first layer.

Latents of natural video are peaked: most cells are near a channel's middle. Training moves them
little and leaves the outer of FSQ's levels almost empty. The released entropy term does not see
this: it uses inner products with codes, which are largest at the outermost levels wherever the
latent is. This module shifts and stretches each channel towards the scale at which its levels are
used most evenly. It then fits the decoder's first layer by least squares, so that the new codes
give what the old latents gave before rounding.

The published training does not do this.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.bundled_models.ridge import Taps, all_cells, ridge, windows
from vidtok import fsq, ops
from vidtok.autoencoder import Tokenizer
from vidtok.reference import lengthen
from vidtok.temporal import Stream

STRETCH = 0.6
"""Fraction of the way to the most even scale. At 1, outer levels cover too wide a tail: a trained
model lost 0.7 dB at once, and 0.3 dB at 0.5, for nearly the same entropy."""
RIDGE = 1e-3
"""Ridge of the regression, as a fraction of the regressors' mean variance."""
_SCALES = torch.arange(0.4, 5.0, 0.1)


@torch.no_grad()
def even_levels(model: Tokenizer, clips: Tensor) -> None:
    """Stretch an FSQ model's latents and refit the decoder's first layer, in place.

    Args:
        model: float32, FSQ.
        clips: `[B, T, H, W, 3]` in [-1, 1], T, H and W as the configuration takes them.

    Raises:
        ValueError: the model is KL, or the clips are not what the network takes.
    """
    config = model.config
    if not config.fsq_levels:
        raise ValueError(f"{config.name} is a KL tokenizer and has no levels")
    config.check_frames(clips.shape[1])
    config.check_size(clips.shape[2], clips.shape[3])
    rule, conv = config.time_rule, model.decoder.conv_in
    video = lengthen(config, clips)

    def seen(codes: Tensor) -> Tensor:
        return F.pad(Stream(rule).window(conv, codes), (0, 0, 1, 1, 1, 1))

    latent = model.encoder(video, Stream(rule)).float()
    weight, bias = ops.weight_and_bias(conv)
    smooth = bound(latent, config.fsq_levels)
    wanted = ops.conv3d(Stream(rule).window(conv, smooth), weight, bias)

    out_weight, out_bias = ops.weight_and_bias(model.encoder.conv_out)
    for channel, levels in enumerate(config.fsq_levels):
        values = latent[..., channel].flatten()
        middle = values.median()
        scale = 1 + STRETCH * (_evenest(values - middle, levels) - 1)
        out_weight[channel] *= scale
        out_bias[channel] = (out_bias[channel] - middle) * scale - center(levels)

    codes = fsq.quantize(model.encoder(video, Stream(rule)).float(), config.fsq_levels)
    cells = all_cells(codes.shape[:4])
    fitted = ridge(windows(seen(codes), Taps(3, 3), cells), wanted.flatten(0, 3), RIDGE)
    weight.copy_(fitted[0].view_as(weight))
    bias.copy_(fitted[1])


def bound(z: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return the values that `fsq.quantize` rounds, on the scale of its result."""
    L = torch.tensor(levels, dtype=torch.float32, device=z.device)
    return fsq.bounded(z, L) / (L // 2)


def center(levels: int) -> float:
    """Return -z for the z in the middle of a channel's levels, with equally many on both sides."""
    half = (levels - 1) * (1 + fsq.EPS) / 2
    return math.atanh(0.5 / half) if levels % 2 == 0 else 0.0


def _evenest(centred: Tensor, levels: int) -> float:
    """Return the scale at which a channel, centred at 0, uses its levels most evenly."""
    entropies = []
    for scale in _SCALES:
        z = centred * scale - center(levels)
        codes = fsq.quantize(z.unsqueeze(-1), (levels,))
        counts = torch.bincount(fsq.codes_to_indices(codes, (levels,)), minlength=levels)
        share = counts[counts > 0] / counts.sum()
        entropies.append(-(share * share.log2()).sum())
    return float(_SCALES[torch.stack(entropies).argmax()])
