"""Memory of a training step: what a pass keeps for its backward pass, and what to compute again.

Autograd keeps activations from the forward to the backward pass. They are most of the memory: 17
frames of 256×256 pixels keep some 60 GiB in float32. A block that is computed again in the backward
pass keeps only its input. The blocks of the highest resolution keep most, so they come first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_SIDE = 32
"""Height and width in pixels of the clips that are measured: the smallest that all terms take."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that one pass keeps for its backward pass."""

    total: float
    """Bytes of the whole pass, without weights."""
    blocks: list[float]
    """Bytes that each block keeps."""
    inputs: list[float]
    """Bytes of each block's input, which a block that is computed again keeps."""

    def beyond(self, other: "Kept", factor: float) -> "Kept":
        """Return these values plus `factor` times their difference from another's."""

        def line(here: float, there: float) -> float:
            return here + factor * (here - there)

        return Kept(
            line(self.total, other.total),
            list(map(line, self.blocks, other.blocks)),
            list(map(line, self.inputs, other.inputs)),
        )


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Let the backward pass compute the blocks again from their inputs. They draw no numbers."""
    for block in blocks:
        block.forward = partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )


def kept_by(
    run: Callable[[], object], blocks: Iterable[nn.Module], weights: set[torch.UntypedStorage]
) -> Kept:
    """Run a pass and count what autograd keeps.

    Args:
        run: the pass; what it returns holds the graph.
        blocks: modules to count separately. Their first argument is their input.
        weights: storages not to count.
    """
    storages: dict[
        torch.UntypedStorage, int
    ] = {}  # holding them keeps their memory from being used again
    total = 0
    blocks = list(blocks)
    at_start: dict[nn.Module, int] = {}
    found: dict[nn.Module, tuple[int, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage not in weights and storage not in storages:
            storages[storage] = storage.nbytes()
            total += storages[storage]
        return tensor

    def enter(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        at_start[block] = total

    def leave(block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        found[block] = total - at_start[block], inputs[0].nbytes

    hooks = [block.register_forward_pre_hook(enter) for block in blocks]
    hooks += [block.register_forward_hook(leave) for block in blocks]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            graph = run()
    finally:
        for hook in hooks:
            hook.remove()
    del graph
    each = [found.get(block, (0, 0)) for block in blocks]
    return Kept(total, [kept for kept, _ in each], [given for _, given in each])


def estimate(
    run: Callable[[Tensor], object],
    clips: Tensor,
    blocks: Iterable[nn.Module],
    weights: Iterable[Tensor],
) -> Kept:
    """Return what a pass over clips would keep, from passes over one and two small clips.

    What is kept grows with the number of pixels, except for copies of weights. The device itself
    computes the small clips, so that its types and kernels count.

    Args:
        run: the pass over clips uint8 `[B, T, H, W, 3]`; what it returns holds the graph.
        clips: clips of the size to estimate for.
        blocks: modules to count separately.
        weights: tensors not to count.
    """
    blocks, known = list(blocks), {weight.untyped_storage() for weight in weights}
    clip = clips[:1, :, :_SIDE, :_SIDE]
    one, two = (kept_by(partial(run, clip.repeat(n, 1, 1, 1, 1)), blocks, known) for n in (1, 2))
    return two.beyond(one, clips.numel() / clip.numel() - 2)


def to_fit(kept: Kept, free: float) -> tuple[list[int], float]:
    """Return which blocks to compute again for a pass to fit, and what it then takes.

    Args:
        kept: what the pass keeps without that.
        free: bytes that it can take.

    Returns:
        Numbers of the blocks, those that keep most first; and bytes at the peak, which are more
        than `free` if all blocks do not suffice.
    """
    order = sorted(range(len(kept.blocks)), key=lambda i: kept.inputs[i] - kept.blocks[i])
    chosen: list[int] = []
    left, again = kept.total, 0.0
    for i in order:
        if left + again <= free or kept.blocks[i] <= kept.inputs[i]:
            break
        chosen.append(i)
        left -= kept.blocks[i] - kept.inputs[i]
        again = max(again, kept.blocks[i])  # the backward pass holds one of them at a time
    return chosen, left + again
