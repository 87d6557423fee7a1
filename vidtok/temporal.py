"""Time: how the three networks differ, and how a clip is processed in chunks.

The networks share every tensor and every formula. They differ in what lies before the first and
behind the last frame of a clip, and in how they double time. `vidtok.time_rule` describes the
difference, `Stream` implements it.

A whole clip is a stream of one chunk. For several chunks, the stream holds what each layer must
remember. This state is passed from call to call and never kept in a module. The results for
chunks equal those for the whole clip, except for float rounding.

Layout: `[B, T, H, W, C]`, channels last. Source: VidTok, arXiv 2412.13061, and its v1.1 release.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vidtok.norm import NormAct, kernels
from vidtok.time_rule import TimeRule


class Rows(NamedTuple):
    """Half-open range of rows, [start, stop), in a picture of `height` rows."""

    start: int
    stop: int
    height: int


class Stream:
    """Position of a chunk in its clip, and what the layers remember of earlier chunks.

    Args:
        rule: rule of the network.
        compact: whether a clip of length 1 modulo the temporal factor was not lengthened in front.
            Strided layers then see two frames in front of the first instead of one. This is exact
            where the fill is the first frame, because the omitted copies are all equal.
    """

    def __init__(self, rule: TimeRule, *, compact: bool = False) -> None:
        self.rule = rule
        self.compact = compact
        self.first = True
        self.last = True
        self._tails: dict[nn.Module, Tensor] = {}
        self._tiles: dict[int, Stream] = {}

    def tile(self, number: int) -> "Stream":
        """Return the stream of one tile of the pictures, at the place of this stream's chunk."""
        stream = self._tiles.setdefault(number, Stream(self.rule, compact=self.compact))
        return stream.chunk(first=self.first, last=self.last)

    def chunk(self, *, first: bool, last: bool) -> "Stream":
        """Set whether the next chunk is the first or the last of its clip. Return the stream."""
        self.first, self.last = first, last
        return self

    def window(
        self,
        layer: nn.Module,
        x_BTHWC: Tensor,
        *,
        norm: NormAct | None = None,
        bias: Tensor | None = None,
        stride: int = 1,
        rows: Rows | None = None,
    ) -> Tensor:
        """Return x and the frames around it that a kernel of three over time needs.

        Args:
            layer: the layer whose input x is; it is the key in the stream's memory.
            x_BTHWC: the chunk, or those of its rows that `rows` names.
            norm: norm between x and the layer. Its result is written into the window, so that the
                window needs no pass of its own.
            bias: bias to add to x before the norm: see `norm.split_bias`.
            stride: stride of the layer in time.
            rows: rows that x holds, if a layer processes pictures in strips.
        """
        front, behind = self.rule.padding(stride)
        if self.first and self.compact and stride == 2:
            front = 2
        if norm is not None and kernels(x_BTHWC) is not None:
            fill = self.rule.fill if self.first else "nothing"
            window = norm.window(x_BTHWC, bias, front=front, behind=behind, fill=fill)
        elif torch.is_grad_enabled():
            inside = x_BTHWC if norm is None else norm(x_BTHWC, bias).to(x_BTHWC.dtype)
            window = self._joined(inside, front, behind)
        else:
            window = x_BTHWC.new_empty(
                (x_BTHWC.shape[0], front + x_BTHWC.shape[1] + behind, *x_BTHWC.shape[2:])
            )
            inside = window[:, front : front + x_BTHWC.shape[1]]
            if norm is None:
                inside.copy_(x_BTHWC)
            else:
                norm.into(x_BTHWC if bias is None else x_BTHWC + bias, inside)
            if front and self.first:
                window[:, :front] = 0.0 if self.rule.fill == "zeros" else inside[:, :1]
            if behind:
                window[:, -behind:] = 0
        if front and not self.first:
            tail = self._tails[layer]
            window[:, :front] = tail if rows is None else tail[:, :, rows.start : rows.stop]
        if not self.last:
            self._remember(layer, window, 3 - stride, rows)
        return window

    def _joined(self, inside: Tensor, front: int, behind: int) -> Tensor:
        """Return the window of a layer with gradients, as one concatenation.

        A slice that is written into a tensor costs the backward pass a copy of the whole gradient.
        """
        first, parts = inside[:, :1], [inside]
        if front:
            like_first = self.first and self.rule.fill == "first"
            edge = first if like_first else torch.zeros_like(first)
            parts.insert(0, edge.expand(-1, front, -1, -1, -1))
        if behind:
            parts.append(torch.zeros_like(first).expand(-1, behind, -1, -1, -1))
        return torch.cat(parts, 1)

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
        """Double the frames linearly (half-pixel centres), the first `latent_frame` separately.

        The frames of the clip's first latent frame are interpolated separately from all others:
        nothing mixes across that seam. The second output of a frame needs the next frame. So one
        output frame is kept for the next chunk, unless this chunk is the last.

        Args:
            layer: the upsampler.
            x_BTHWC: the chunk; the first chunk holds the whole first latent frame.
            latent_frame: number of frames that one latent frame has become at this layer.
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
    """Double a sequence of frames linearly.

    Frame k gives ¼·x[k-1] + ¾·x[k] and ¾·x[k] + ¼·x[k+1]; at the ends of the sequence, x[k] itself.
    `before` is the frame before x, whose second output is still missing. `close` ends the sequence.
    """
    if before is not None:
        x_BTHWC = torch.cat([before, x_BTHWC], 1)
    left, right = x_BTHWC[:, :-1], x_BTHWC[:, 1:]
    between = torch.stack([0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right], 2).flatten(1, 2)
    start = [] if before is not None else [x_BTHWC[:, :1]]
    return torch.cat([*start, between, *([x_BTHWC[:, -1:]] if close else [])], 1)
