"""Convolutions by Winograd's F(4×4, 3×3) in space and F(4, 3) in time, for float32 on a CPU.

On a CPU arithmetic is the limit. Here the sixteen outputs of a tile take 36 multiplications instead
of 144, and four frames take 6 instead of 12.

The points are 0, ±¾, ±3/2 and infinity: their error is half that of the textbook's 0, ±1, ±2. For
128 to 512 channels and outputs of standard deviation 1.4, the error's standard deviation is 1.1e-6
to 1.3e-6 in space (direct: 0.6e-6 to 1.1e-6) and 0.5e-6 to 0.9e-6 in time (direct: 0.2e-6). Through
a whole encoder the error stays below 3e-5.

All tensors are channels last: a transform adds whole slices, and the products are one batched
matrix product over tiles.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
Letters: A B G are the paper's transforms, C and K the channels in and out.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 4
"""Number of outputs of a tile along one side. A tile reads TILE + 2 inputs."""

TILES_AT_ONCE = 256
"""Number of tiles in one matrix product: enough for full speed, few enough for the cache."""

_A, _B = 0.75, 1.5


def _kernel_transform() -> Tensor:
    """Return G `[6, 3]`, with rows scaled so that A has the small integers of points 0, ±1, ±2."""
    points = (0.0, _A, -_A, _B, -_B)
    rows = []
    for i, p in enumerate(points):
        norm = math.prod(p - q for j, q in enumerate(points) if j != i)
        rows.append([1 / norm, p / norm, p * p / norm])
    rows.append([0.0, 0.0, _A**-3])
    return torch.tensor(rows, dtype=torch.float64)


_G = _kernel_transform()
_SCALE = torch.tensor([_A**i for i in range(TILE)])
"""Factor of output i of a tile that the small-integer form of A leaves out."""


def suits_time(x_BTHWC: Tensor) -> bool:
    """Return whether `TimeConv` is faster than a direct convolution that keeps the width of x."""
    frames = x_BTHWC.shape[1]
    whole = -(-frames // TILE) * TILE
    return 3 * whole <= 4 * frames and suits(x_BTHWC, x_BTHWC.shape[-1], x_BTHWC.shape[-1])


def suits(x_BTHWC: Tensor, channels_in: int, channels_out: int) -> bool:
    """Return whether `Conv3x3` is faster than a direct convolution, for clips of x's size."""
    return (
        x_BTHWC.device.type == "cpu"
        and x_BTHWC.dtype == torch.float32
        and not torch.is_grad_enabled()
        and min(channels_in, channels_out) >= 64
        and x_BTHWC.shape[:4].numel() >= TILES_AT_ONCE * TILE**2
    )


class Conv3x3:
    """3×3 or k×3×3 convolution of one layer, with its buffers.

    It pads space with one zero on each side, and time not at all. Write the input into
    `interior(B, T, H, W)`, then call. Each call overwrites the buffers, and so the last result.

    Args:
        weight: `[K, C, 3, 3]` or `[K, C, k, 3, 3]` float32.
        bias: `[K]`.
        stride: stride in time.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1) -> None:
        if weight.dim() == 4:
            weight = weight.unsqueeze(2)
        K, C, taps = weight.shape[:3]
        flat = weight.permute(2, 0, 1, 3, 4).reshape(taps * K * C, 9)
        kernel = (torch.kron(_G, _G).float() @ flat.t()).view(36, taps, K, C)
        self.kernel = kernel.permute(1, 0, 3, 2).contiguous()  # [k, 36, C, K]
        self.bias = bias
        self.stride = stride
        self._padded = weight.new_empty(0)
        self._out = weight.new_empty(0)

    def interior(self, batch: int, frames: int, height: int, width: int) -> Tensor:
        """Return the view `[B, T, H, W, C]` that takes the input."""
        tall, wide = (-(-side // TILE) * TILE for side in (height, width))
        taps, _, C, K = self.kernel.shape
        shape = (batch, frames, tall + 2, wide + 2, C)
        if self._padded.shape != shape:
            self._padded = self.kernel.new_zeros(shape)
            self._out = self.kernel.new_empty(
                (batch, (frames - taps) // self.stride + 1, tall, wide, K)
            )
        self._size = height, width
        return self._padded[:, :, 1 : height + 1, 1 : width + 1]

    def __call__(self) -> Tensor:
        """Return the convolution of the interior, `[B, (T - k)/stride + 1, H, W, K]`."""
        B, T, tall, wide, K = self._out.shape
        across = wide // TILE
        step = max(1, TILES_AT_ONCE // (self._padded.shape[:2].numel() * across))
        for top in range(0, tall // TILE, step):
            down = min(step, tall // TILE - top)
            rows = slice(top * TILE, (top + down) * TILE)
            self._tiles(
                self._padded[:, :, rows.start : rows.stop + 2].flatten(0, 1),
                self._out[:, :, rows].view(B * T, down, TILE, across, TILE, K),
                B,
            )
        height, width = self._size
        return self._out[:, :, :height, :width]

    def _tiles(self, x: Tensor, out: Tensor, batch: int) -> None:
        """Convolve `down` rows of tiles of all frames: n frames in x, m frames in out."""
        m, down, _, across, _, K = out.shape
        n, C = x.shape[0], x.shape[-1]
        rows = x.new_empty((6, n, down, x.shape[2], C))
        _inputs([x[:, i : i + TILE * down - 3 : TILE] for i in range(6)], rows.unbind())
        both = x.new_empty((6, 6, n, down, across, C))
        columns = [rows[..., j : j + TILE * across - 3 : TILE, :] for j in range(6)]
        _inputs(columns, both.unbind(1))
        products = self._products(both.view(36, batch, n // batch, down * across, C), m // batch)
        narrow = x.new_empty((TILE, 6, m, down, across, K))
        _outputs(products.view(6, 6, m, down, across, K).unbind(1), narrow.unbind())
        _outputs(narrow.unbind(1), [out[:, :, i].movedim(3, 0) for i in range(TILE)])
        scale = _SCALE.view(TILE, 1, 1, 1) * _SCALE.view(TILE, 1)
        torch.addcmul(self.bias, out, scale, out=out)

    def _products(self, both: Tensor, frames: int) -> Tensor:
        """Return the sum over the taps in time, `[36, B·frames·tiles, K]`."""
        _, batch, _, tiles, C = both.shape
        last = self.stride * (frames - 1) + 1
        products = both.new_empty((36, batch * frames * tiles, self.kernel.shape[-1]))
        for tap, kernel in enumerate(self.kernel):
            rows = both[:, :, tap : tap + last : self.stride].reshape(36, -1, C)
            torch.baddbmm(products, rows, kernel, beta=int(tap > 0), out=products)
        return products


class TimeConv:
    """Convolution of one layer over time alone, with a kernel of three and no padding.

    Args:
        weight: `[K, C, 3]` float32.
        bias: `[K]`.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        kernel = torch.einsum("it,kct->ikc", _G.float(), weight)
        self.kernel = kernel[..., None, None].contiguous()  # [6, K, C, 1, 1]
        self.bias = bias

    def __call__(self, x_BTHWC: Tensor) -> Tensor:
        """Return the convolution `[B, T, H, W, K]` of x `[B, T + 2, H, W, C]`."""
        B, frames, H, W, C = x_BTHWC.shape
        tiles = -(-(frames - 2) // TILE)
        if missing := TILE * tiles + 2 - frames:
            zeros = x_BTHWC.new_zeros((B, missing, H, W, C))
            x_BTHWC = torch.cat([x_BTHWC, zeros], 1)
        inputs = x_BTHWC.new_empty((6, B, tiles, H, W, C))
        slices = [x_BTHWC[:, i : i + TILE * tiles - 3 : TILE] for i in range(6)]
        _inputs(slices, inputs.unbind())
        K = self.kernel.shape[1]
        products = [
            # A 1×1 convolution is the faster matrix product if there are many rows.
            F.conv2d(rows.view(1, 1, -1, C).permute(0, 3, 1, 2), kernel)
            .permute(0, 2, 3, 1)
            .reshape(B, tiles, H, W, K)
            for rows, kernel in zip(inputs, self.kernel, strict=True)
        ]
        out = x_BTHWC.new_empty((B, tiles, TILE, H, W, K))
        _outputs(products, out.unbind(2))
        torch.addcmul(self.bias, out, _SCALE.view(TILE, 1, 1, 1), out=out)
        return out.view(B, tiles * TILE, H, W, K)[:, : frames - 2]


def _inputs(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply six slices by Bᵀ: rows 0, ±¾, ±3/2, infinity."""
    near, far = -(_A**2), -(_B**2)
    u, v = torch.add(d[4], d[2], alpha=far), torch.add(d[3], d[1], alpha=far)
    torch.add(u, v, alpha=_A, out=out[1])
    torch.add(u, v, alpha=-_A, out=out[2])
    u, v = torch.add(d[4], d[2], alpha=near, out=u), torch.add(d[3], d[1], alpha=near, out=v)
    torch.add(u, v, alpha=_B, out=out[3])
    torch.add(u, v, alpha=-_B, out=out[4])
    torch.add(d[2], d[0], alpha=near, out=out[0])
    torch.add(u, out[0], alpha=far, out=out[0])
    torch.add(d[5], d[3], alpha=near, out=out[5])
    torch.add(out[5], v, alpha=far, out=out[5])


def _outputs(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Multiply six slices by Aᵀ, without the scale."""
    p, r = m[1] + m[2], m[3] + m[4]
    torch.add(p, r, alpha=4, out=out[2])
    torch.add(p.add_(r), m[0], out=out[0])
    torch.sub(m[1], m[2], out=p)
    torch.sub(m[3], m[4], out=r)
    torch.add(p, r, alpha=2, out=out[1])
    torch.add(p.add_(r, alpha=8), m[5], out=out[3])
