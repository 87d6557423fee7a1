"""Give FSQ all its levels: the encoder's output stretched, the decoder's first layer refitted.

Latents of natural video are peaked: most cells are near a channel's middle, and training, which
moves them little, leaves the outer of FSQ's levels almost empty. The released entropy term does not
see it: it looks at inner products with codes, which are largest at the outermost levels wherever
the latent is. Here each channel is shifted and stretched towards the scale at which its levels are
met most evenly, and the decoder's first layer is fitted by least squares to give on the new codes
what it gave on the old ones before rounding. Training then uses what the codebook has gained.

Not part of the published training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtok import fsq, ops
from vidtok.autoencoder import Tokenizer
from vidtok.reference import lengthen
from vidtok.temporal import Stream
from vidtok.training.ridge import Taps, all_cells, ridge, windows

STRETCH = 0.6
"""Share of the way to the evenest scale. All the way, outer levels stand for too wide a tail: a
trained model lost 0.7 dB at once, with half of it 0.3, for nearly the same entropy."""
RIDGE = 1e-3
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
    smooth = fsq.bound(latent, config.fsq_levels)
    wanted = ops.conv3d(Stream(rule).window(conv, smooth), weight, bias)

    out_weight, out_bias = ops.weight_and_bias(model.encoder.conv_out)
    for channel, levels in enumerate(config.fsq_levels):
        values = latent[..., channel].flatten()
        middle = values.median()
        scale = 1 + STRETCH * (_evenest(values - middle, levels) - 1)
        out_weight[channel] *= scale
        out_bias[channel] = (out_bias[channel] - middle) * scale - fsq.center(levels)

    codes = fsq.quantize(model.encoder(video, Stream(rule)).float(), config.fsq_levels)
    cells = all_cells(codes.shape[:4])
    fitted = ridge(windows(seen(codes), Taps(3, 3), cells), wanted.flatten(0, 3), RIDGE)
    weight.copy_(fitted[0].view_as(weight))
    bias.copy_(fitted[1])


def _evenest(centred: Tensor, levels: int) -> float:
    """Return the scale at which a channel, centred at 0, meets its levels most evenly."""
    entropies = []
    for scale in _SCALES:
        z = centred * scale - fsq.center(levels)
        codes = fsq.quantize(z.unsqueeze(-1), (levels,))
        counts = torch.bincount(fsq.codes_to_indices(codes, (levels,)), minlength=levels)
        share = counts[counts > 0] / counts.sum()
        entropies.append(-(share * share.log2()).sum())
    return float(_SCALES[torch.stack(entropies).argmax()])
