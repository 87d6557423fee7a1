"""Time: the one place that knows how the three networks differ, and how a clip goes on in chunks.

The networks share every tensor and every formula; they differ in what stands before the first and
behind the last frame of a clip, and in how time is doubled. `TimeRule` says so, `Stream` does so.
A whole clip is a stream of one chunk. Where a clip comes in several, the stream holds what each
layer has to remember: explicit state, handed from call to call, never kept in a module. Chunked
and whole results agree to float rounding.

Layout: `[B, T, H, W, C]`, channels last. Source: VidTok, arXiv 2412.13061, and its v1.1 release.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TimeRule:
    """How one network treats the ends of time."""

    causal: bool
    fill: Literal["zeros", "first"]
    """What stands outside the clip: zeros, or copies of the layer's own first frame."""
    upsampling: Literal["nearest", "linear"]
    length_remainder: int | None
    """Valid lengths are this modulo the temporal factor; None: any length."""
    chunkable: bool
    """Whether a clip may come in chunks."""

    def padding(self, stride: int) -> tuple[int, int]:
        """Return how many frames a kernel of three needs in front and behind."""
        if self.causal:
            return 3 - stride, 0
        return (1, 1) if stride == 1 else (0, 1)


RULES = {
    "causal_v1_0": TimeRule(True, "zeros", "nearest", 1, chunkable=False),
    "causal_v1_1": TimeRule(True, "first", "linear", None, chunkable=True),
    "noncausal": TimeRule(False, "zeros", "nearest", 0, chunkable=False),
}


class Rows(NamedTuple):
    """The rows [start, stop) of a picture of `height` rows."""

    start: int
    stop: int
    height: int


def _copy(x: Tensor, out: Tensor) -> None:
    out.copy_(x)


class Stream:
    """Where in its clip a chunk stands, and what the layers remember of the chunks before.

    Args:
        rule: the network's.
        compact: the clip was not lengthened in front although its length is 1 modulo the temporal
            factor: strided layers then see two frames in front of the first instead of one. Exact
            where the fill is the first frame, since the copies left out would all be equal.
    """

    def __init__(self, rule: TimeRule, *, compact: bool = False) -> None:
        self.rule = rule
        self.compact = compact
        self.first = True
        self.last = True
        self._tails: dict[nn.Module, Tensor] = {}

    def chunk(self, *, first: bool, last: bool) -> "Stream":
        """Say where the chunk that comes next stands; returns the stream itself."""
        self.first, self.last = first, last
        return self

    def window(
        self,
        layer: nn.Module,
        x_BTHWC: Tensor,
        *,
        through: Callable[[Tensor, Tensor], object] = _copy,
        stride: int = 1,
        rows: Rows | None = None,
    ) -> Tensor:
        """Return x with the frames around it that a kernel of three over time needs.

        Args:
            layer: whose input x is; its key in the stream's memory.
            x_BTHWC: the chunk, or the rows of it that `rows` names.
            through: writes its first argument's values, of the same shape, into its second:
                where a norm stands before the convolution, it needs no pass of its own.
            stride: the layer's stride in time.
            rows: set where a layer works through a picture strip by strip.
        """
        front, behind = self.rule.padding(stride)
        if self.first and self.compact and stride == 2:
            front = 2
        window = x_BTHWC.new_empty(
            (x_BTHWC.shape[0], front + x_BTHWC.shape[1] + behind, *x_BTHWC.shape[2:])
        )
        inside = window[:, front : front + x_BTHWC.shape[1]]
        through(x_BTHWC, inside)
        if front:
            window[:, :front] = self._before(layer, inside, rows)
        if behind:
            window[:, -behind:] = 0
        if not self.last:
            self._remember(layer, window, 3 - stride, rows)
        return window

    def _before(self, layer: nn.Module, inside: Tensor, rows: Rows | None) -> Tensor | float:
        if not self.first:
            tail = self._tails[layer]
            return tail if rows is None else tail[:, :, rows.start : rows.stop]
        return 0.0 if self.rule.fill == "zeros" else inside[:, :1]

    def _remember(self, layer: nn.Module, window: Tensor, keep: int, rows: Rows | None) -> None:
        tail = window[:, window.shape[1] - keep :]
        if rows is None:
            self._tails[layer] = tail.clone()
            return
        if rows.start == 0:
            B, T, _, W, C = tail.shape
            if layer not in self._tails or self._tails[layer].shape[1] != T:
                self._tails[layer] = tail.new_empty((B, T, rows.height, W, C))
        self._tails[layer][:, :, rows.start : rows.stop] = tail

    def interpolate(self, layer: nn.Module, x_BTHWC: Tensor, latent_frame: int) -> Tensor:
        """Double the frames linearly (half-pixel centres), `latent_frame` of them apart.

        The frames of the clip's first latent frame are interpolated on their own, and so are all
        others: nothing mixes across that seam. A frame's second half needs its right neighbour, so
        unless the chunk is the last one, one output frame is held back until the next chunk.

        Args:
            layer: the upsampler.
            x_BTHWC: the chunk; the first one holds the whole first latent frame.
            latent_frame: how many frames one latent frame has become at this layer.
        """
        out = []
        before = self._tails.pop(layer, None)
        if self.first:
            head, x_BTHWC = x_BTHWC[:, :latent_frame], x_BTHWC[:, latent_frame:]
            out.append(double(head))
        if x_BTHWC.shape[1]:
            out.append(double(x_BTHWC, before, close=self.last))
            before = x_BTHWC[:, -1:].clone()
        elif before is not None and self.last:
            out.append(before)
        if before is not None and not self.last:
            self._tails[layer] = before
        return torch.cat(out, 1)


def double(x_BTHWC: Tensor, before: Tensor | None = None, *, close: bool = True) -> Tensor:
    """Linear doubling of a run of frames.

    Frame k gives ¼·x[k-1] + ¾·x[k] and ¾·x[k] + ¼·x[k+1], at the ends of the run x[k] itself.
    `before` is the frame left of x, whose second half is still to come; `close` ends the run.
    """
    if before is not None:
        x_BTHWC = torch.cat([before, x_BTHWC], 1)
    left, right = x_BTHWC[:, :-1], x_BTHWC[:, 1:]
    between = torch.stack([0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right], 2).flatten(1, 2)
    start = [] if before is not None else [x_BTHWC[:, :1]]
    return torch.cat([*start, between, *([x_BTHWC[:, -1:]] if close else [])], 1)
