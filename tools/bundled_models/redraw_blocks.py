"""Give the residual blocks inputs of even scale, so that they learn.

The linear path of `warm_start` keeps two large constants in every layer, and training leaves them
there. Behind a norm, a channel then varies by a fifth of its mean or less: the activation is nearly
linear, and almost all of a gradient lies along the mean. This module draws the blocks again. The
scale and shift of both norms follow from data, so that every channel has mean 0 and variance 1, and
the second convolution is fitted by least squares to what the block gave before.

The published training does not do this.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.bundled_models.ridge import Taps, ridge, windows
from vidtok import fsq, ops
from vidtok.autoencoder import Tokenizer
from vidtok.layers import ResBlock3d, SpatialBlock, TemporalBlock
from vidtok.norm import NormAct
from vidtok.reference import lengthen
from vidtok.temporal import Stream

ROWS = 30_000
"""Maximum number of cells in one regression."""
RIDGE = 1e-2
"""Ridge of the regression, as a fraction of the regressors' mean variance."""
MOST = 10.0
"""Maximum factor of a norm: the constant channels hardly vary, and would be noise."""

Block = SpatialBlock | TemporalBlock | ResBlock3d


@torch.no_grad()
def redraw_blocks(model: Tokenizer, clips: Tensor, *, seed: int = 0) -> None:
    """Draw the residual blocks again, in place, so that the model gives nearly the same.

    Args:
        model: float32, with weights that were trained from `warm_start`.
        clips: `[B, T, H, W, 3]` in [-1, 1], T, H and W as the configuration takes them.
        seed: seed of the weights that are drawn, and of the cells that the regressions use.

    Raises:
        ValueError: the clips are not what the network takes.
    """
    config, rule = model.config, model.config.time_rule
    config.check_frames(clips.shape[1])
    config.check_size(clips.shape[2], clips.shape[3])
    generator = torch.Generator().manual_seed(seed)

    def before(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(block, Block)
        _redraw_block(block, inputs[0].detach(), Stream(rule), generator)

    blocks = [module for module in model.modules() if isinstance(module, Block)]
    hooks = [block.register_forward_pre_hook(before) for block in blocks]
    try:
        with torch.enable_grad():  # without gradients, blocks overwrite their inputs
            h = model.encoder(lengthen(config, clips), Stream(rule)).detach().float()
            z = fsq.quantize(h, config.fsq_levels) if config.fsq_levels else h.chunk(2, -1)[0]
            model.decoder(z, Stream(rule))
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _redraw_block(block: Block, x: Tensor, stream: Stream, generator: torch.Generator) -> None:
    taps = Taps(
        time=1 if isinstance(block, SpatialBlock) else 3,
        space=1 if isinstance(block, TemporalBlock) else 3,
    )

    def seen(norm: NormAct, conv: nn.Module, h: Tensor) -> Tensor:
        """Return the padded input of a convolution behind a norm."""
        h = norm(h) if taps.time == 1 else stream.window(conv, h, norm=norm)
        return h if taps.space == 1 else F.pad(h, (0, 0, 1, 1, 1, 1))

    def convolved(norm: NormAct, conv: nn.Module, h: Tensor) -> Tensor:
        weight, bias = ops.weight_and_bias(conv)
        kernel = weight.reshape(*weight.shape[:2], taps.time, taps.space, taps.space)
        padded = seen(norm, conv, h).movedim(-1, 1)
        return F.conv3d(padded, kernel, bias).movedim(1, -1).contiguous()

    gave = convolved(block.norm2, block.conv2, convolved(block.norm1, block.conv1, x))
    _even(block.norm1, x)
    weight, bias = ops.weight_and_bias(block.conv1)
    weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)
    bias.zero_()
    h = convolved(block.norm1, block.conv1, x)
    _even(block.norm2, h)
    total = gave[..., 0].numel()
    flat = torch.randint(total, (min(ROWS, total),), generator=generator)
    cells = torch.unravel_index(flat, gave.shape[:-1])
    inputs = windows(seen(block.norm2, block.conv2, h), taps, cells)
    fitted = ridge(inputs, gave.flatten(0, -2)[flat], RIDGE)
    for tensor, values in zip(ops.weight_and_bias(block.conv2), fitted, strict=True):
        tensor.copy_(values.view_as(tensor))


def _even(norm: NormAct, x: Tensor) -> None:
    """Set scale and shift so that every channel has mean 0 and variance 1 before the activation."""
    y = F.layer_norm(x, x.shape[-1:], eps=norm.norm.eps).flatten(0, -2)
    scale = (1 / y.std(0)).clamp(max=MOST)
    norm.norm.weight.copy_(scale)
    norm.norm.bias.copy_(-y.mean(0) * scale)
