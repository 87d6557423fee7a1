"""Triton kernels of norms, which `vidtok.norm_triton` starts.

A program takes a block: some positions of one frame of one clip, with all channels. All offsets are
64-bit, so no tensor is too large. Numbers in lower case are arguments, those in capitals are
constants that a kernel is compiled for.
"""

import triton
import triton.language as tl


@triton.jit
def place(block, blocks, frames, positions, column, C: tl.constexpr, ROWS: tl.constexpr):
    """Return a block's clip, frame, offsets in the frame with mask, and positions with mask."""
    frame = (block // blocks).to(tl.int64)
    row = (block % blocks) * ROWS + tl.arange(0, ROWS)
    real = row < positions
    at = row.to(tl.int64)[:, None] * C + column
    inside = real[:, None] & (column < C)
    return frame // frames, frame % frames, at, inside, frame * positions + row, real


@triton.jit
def norm_forward(
    x,
    shift,
    weight,
    bias,
    out,
    mean,
    rstd,
    blocks,
    frames,
    positions,
    x_clip,
    x_frame,
    out_clip,
    out_frame,
    eps,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    SHIFTED: tl.constexpr,
    KEEP: tl.constexpr,
    FRONT: tl.constexpr,
    BEHIND: tl.constexpr,
    FILL: tl.constexpr,
):
    """Normalise and activate one block, and write the frames around the clip."""
    column = tl.arange(0, COLUMNS)[None, :]
    clip, t, at, inside, position, real = place(
        tl.program_id(0), blocks, frames, positions, column, C, ROWS
    )
    value = tl.load(x + clip * x_clip + t * x_frame + at, mask=inside, other=0.0).to(tl.float32)
    if SHIFTED:
        value += tl.load(shift + column, mask=column < C, other=0.0).to(tl.float32)
    centre = tl.sum(value, 1) / C
    value = tl.where(inside, value - centre[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 1) / C + eps)
    if KEEP:
        tl.store(mean + position, centre, mask=real)
        tl.store(rstd + position, scale, mask=real)
    gain = tl.load(weight + column, mask=column < C, other=0.0).to(tl.float32)
    offset = tl.load(bias + column, mask=column < C, other=0.0).to(tl.float32)
    y = value * scale[:, None] * gain + offset
    y = (y * tl.sigmoid(y)).to(out.dtype.element_ty)
    base = out + clip * out_clip + at
    tl.store(base + (t + FRONT) * out_frame, y, mask=inside)
    zeros = tl.full([ROWS, COLUMNS], 0.0, out.dtype.element_ty)
    if t == 0:
        for i in tl.static_range(FRONT):
            if FILL == "first":
                tl.store(base + i * out_frame, y, mask=inside)
            elif FILL == "zeros":
                tl.store(base + i * out_frame, zeros, mask=inside)
    if t == frames - 1:
        for i in tl.static_range(BEHIND):
            tl.store(base + (t + FRONT + 1 + i) * out_frame, zeros, mask=inside)


@triton.jit
def norm_backward(
    x,
    shift,
    weight,
    bias,
    mean,
    rstd,
    grad,
    dx,
    sums,
    all_blocks,
    blocks,
    frames,
    positions,
    x_clip,
    x_frame,
    out_clip,
    out_frame,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    SHIFTED: tl.constexpr,
    FRONT: tl.constexpr,
    FILL: tl.constexpr,
):
    """Write the gradient of x, and partial sums for weight, bias and shift: `[programs, 3, C]`."""
    column = tl.arange(0, COLUMNS)[None, :]
    gain = tl.load(weight + column, mask=column < C, other=0.0).to(tl.float32)
    offset = tl.load(bias + column, mask=column < C, other=0.0).to(tl.float32)
    of_weight = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    of_bias = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    of_shift = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for block in range(tl.program_id(0), all_blocks, tl.num_programs(0)):
        clip, t, at, inside, position, real = place(
            block, blocks, frames, positions, column, C, ROWS
        )
        value = tl.load(x + clip * x_clip + t * x_frame + at, mask=inside, other=0.0).to(tl.float32)
        if SHIFTED:
            value += tl.load(shift + column, mask=column < C, other=0.0).to(tl.float32)
        centre = tl.load(mean + position, mask=real, other=0.0)[:, None]
        scale = tl.load(rstd + position, mask=real, other=0.0)[:, None]
        normal = tl.where(inside, (value - centre) * scale, 0.0)
        base = grad + clip * out_clip + at
        g = tl.load(base + (t + FRONT) * out_frame, mask=inside, other=0.0).to(tl.float32)
        if FILL == "first":  # noqa: SIM102 - one is a constant, the other is not
            if t == 0:
                for i in tl.static_range(FRONT):
                    g += tl.load(base + i * out_frame, mask=inside, other=0.0).to(tl.float32)
        y = normal * gain + offset
        s = tl.sigmoid(y)
        g *= s * (1.0 + y * (1.0 - s))
        of_weight += g * normal
        of_bias += g
        g *= gain
        along = tl.sum(g * normal, 1)[:, None] / C
        g = (g - tl.sum(g, 1)[:, None] / C - normal * along) * scale
        if SHIFTED:
            of_shift += tl.where(inside, g, 0.0)
        frame = clip * frames + t
        to = dx + frame * out_frame + at
        tl.store(to, g.to(dx.dtype.element_ty), mask=inside)
    column = tl.arange(0, COLUMNS)
    base = sums + tl.program_id(0) * 3 * C + column
    tl.store(base, tl.sum(of_weight, 0), mask=column < C)
    tl.store(base + C, tl.sum(of_bias, 0), mask=column < C)
    tl.store(base + 2 * C, tl.sum(of_shift, 0), mask=column < C)


@triton.jit
def add_forward(
    x,
    branch,
    bias,
    out,
    blocks,
    frames,
    positions,
    x_clip,
    x_frame,
    branch_clip,
    branch_frame,
    out_clip,
    out_frame,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write x + branch + bias for one block. `out` can be x."""
    column = tl.arange(0, COLUMNS)[None, :]
    clip, t, at, inside, _, _ = place(tl.program_id(0), blocks, frames, positions, column, C, ROWS)
    value = tl.load(x + clip * x_clip + t * x_frame + at, mask=inside, other=0.0).to(tl.float32)
    more = tl.load(branch + clip * branch_clip + t * branch_frame + at, mask=inside, other=0.0)
    value += tl.load(bias + column, mask=column < C, other=0.0).to(tl.float32)
    value += more.to(tl.float32)
    to = out + clip * out_clip + t * out_frame + at
    tl.store(to, value.to(out.dtype.element_ty), mask=inside)
