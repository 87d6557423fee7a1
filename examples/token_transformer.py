"""An autoregressive transformer over FSQ tokens: `python examples/token_transformer.py out/demo`.

Learns p(clip) as a product over patches in the order of t, h, w, and over the digits of a patch.
FSQ's codebook is a product, too: the digits of a code index are the levels of the latent channels.
A softmax over all codes is as wide as the codebook. With 262,144 codes and width 128 it has 34
million weights, learns each code separately, and sees most codes never. Six softmaxes over eight
levels express the same distribution, because each sees the digits before it: no digits are assumed
to be independent. They also use that codes with common digits are similar. With `--channels K` the
digits are those of the first K channels in the order of worth.

    digits of the patches before ─► embed, sum ─► causal transformer ─► context of this patch
    context + digits of this patch so far ─► small MLP ─► softmax over the levels of the next digit
"""

import math
import sys
from itertools import accumulate
from operator import mul
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.generators.command import command
from examples.generators.training import Settings
from examples.generators.transformer import (
    Past,
    Positions,
    Transformer,
    from_patches,
    patch_grid,
    patch_places,
    to_patches,
)
from pipeline.reading import Snapshot, TokenizerColumn

MOST_NOISE = 0.1


class TokenTransformer(nn.Module):
    """The generator, with K = p·p·channels digits per patch.

    Args:
        levels: number of levels of each channel.
        patch: p, cells along the side of a patch.
        width: width of the transformer.
        depth: number of its blocks.
    """

    loss_unit = "nats per digit"
    distance_unit = "of the digits"

    def __init__(self, levels: tuple[int, ...], patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.levels, self.patch = levels, patch
        self.bits_per_loss = len(levels) / math.log(2)
        of_digit = torch.tensor(levels).repeat(patch * patch)  # [K], in the order of `to_patches`
        top, num_digits = max(levels), len(of_digit)
        self.register_buffer("offsets", torch.arange(num_digits) * top, persistent=False)
        self.register_buffer("of_digit", of_digit, persistent=False)
        missing = torch.arange(top) >= of_digit[:, None]  # [K, top]
        self.register_buffer("missing", missing, persistent=False)
        self.embed = nn.Embedding(num_digits * top, width)
        self.begin = nn.Parameter(torch.zeros(width))
        self.positions = Positions(width)
        self.transformer = Transformer(width, depth)
        self.context = nn.Linear(width, width // 2)
        self.embed_before = nn.Embedding(num_digits * top, width // 2)
        self.mlp = nn.Sequential(nn.LayerNorm(width // 2), nn.Linear(width // 2, width), nn.GELU())
        for table in (self.embed, self.embed_before):
            # The sum of K rows has the scale of positions and context.
            nn.init.normal_(table.weight, std=num_digits**-0.5)
        self.heads = nn.Parameter(torch.randn(num_digits, width, top) * width**-0.5)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy [B] of all digits of code indices [B, t, h, w]."""
        grid = patch_grid(tuple(indices.shape[1:]), self.patch)
        digits = to_patches(to_digits(indices, self.levels), self.patch)  # [B, N, K]
        seen = self._noised(digits) if self.training else digits
        before = self.embed(seen + self.offsets).sum(2)[:, :-1]
        begin = self.begin.expand(len(digits), 1, -1)
        places = patch_places(grid, indices.device)
        x = torch.cat([begin, before], 1) + self.positions(places)
        context = self.context(self.transformer(x, places, causal=True))
        named = self.embed_before(seen + self.offsets)
        # Digit k sees the digits before it: the sum up to k, minus its own.
        logits = self._logits(context[:, :, None] + named.cumsum(2) - named, slice(None))
        nats = F.cross_entropy(logits.flatten(0, 2).float(), digits.flatten(), reduction="none")
        return nats.unflatten(0, (len(digits), -1)).mean(1)

    @torch.no_grad()
    def sample(self, num: int, shape: tuple[int, ...], begin: Tensor | None = None) -> Tensor:
        """Draw code indices [num, t, h, w], one digit after the other.

        Args:
            num: number of clips.
            shape: their t, h, w.
            begin: code indices [num, n, h, w] of their first n latent frames, a multiple of the
                patch; None to draw all.
        """
        grid = patch_grid(shape, self.patch)
        given: tuple[Tensor, ...] = ()
        if begin is not None:
            given = to_patches(to_digits(begin, self.levels), self.patch).unbind(1)
        past: list[Past] = [[] for _ in self.transformer.blocks]
        x = self.begin.expand(num, 1, -1)
        patches: list[Tensor] = []
        for place in patch_places(grid, self.begin.device).split(1):
            seen = self.transformer(x + self.positions(place), place, past=past)
            n = len(patches)
            patches.append(given[n] if n < len(given) else self._drawn(self.context(seen)[:, 0]))
            x = self.embed(patches[-1] + self.offsets).sum(1, keepdim=True)
        digits = from_patches(torch.stack(patches, 1), grid, self.patch)
        return to_indices(digits, self.levels)

    def _drawn(self, state: Tensor) -> Tensor:
        """Draw the digits [B, K] of a patch from its state [B, D/2]."""
        drawn: list[Tensor] = []
        for k, offset in enumerate(self.offsets):
            chances = self._logits(state[:, None], slice(k, k + 1))[:, 0].softmax(-1)
            drawn.append(torch.multinomial(chances, 1)[:, 0])
            state = state + self.embed_before(drawn[-1] + offset)
        return torch.stack(drawn, 1)

    def distances(self, indices: Tensor, others: Tensor) -> Tensor:
        """Return the fraction of digits in which [n, t, h, w] and [m, t, h, w] differ, [n, m]."""
        ours, theirs = (to_digits(each, self.levels).flatten(1) for each in (indices, others))
        return torch.stack([(one != theirs).float().mean(1) for one in ours])

    def _noised(self, digits: Tensor) -> Tensor:
        """Return digits [B, N, K] with a random fraction of random digits in each clip.

        Sampling continues from its own errors, so training must contain errors, too.
        """
        share = torch.rand(len(digits), 1, 1, device=digits.device) * MOST_NOISE
        others = (torch.rand(digits.shape, device=digits.device) * self.of_digit).long()
        return torch.where(torch.rand(digits.shape, device=digits.device) < share, others, digits)

    def _logits(self, states: Tensor, of: slice) -> Tensor:
        """Return logits [..., k, top] of some digits from their states [..., k, D/2]."""
        logits = torch.einsum("...kd,kdl->...kl", self.mlp(states), self.heads[of])
        return logits.masked_fill(self.missing[of], -torch.inf)


def to_digits(indices: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return the level of each channel, [B, C, t, h, w], of code indices [B, t, h, w]."""
    size, basis = _radix(levels, indices.device)
    return indices[:, None] // basis % size


def to_indices(digits: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return the code indices of digits; undoes `to_digits`."""
    return (digits * _radix(levels, digits.device)[1]).sum(1)


def _radix(levels: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the channels' levels and place values, [C, 1, 1, 1]; channel 0 has the least value."""
    places = accumulate(levels[:-1], mul, initial=1)
    return (
        torch.tensor(levels, device=device).view(-1, 1, 1, 1),
        torch.tensor(list(places), device=device).view(-1, 1, 1, 1),
    )


def build(corpus: Snapshot, column: TokenizerColumn, settings: Settings) -> TokenTransformer:
    """Return the generator of a dataset's FSQ tokens."""
    facts = corpus.dataset.identity["tokenizers"][column.name]["facts"]
    prefix = corpus.prefixes(settings.kept(column)).get(column.name)
    levels = tuple(facts["levels"]) if prefix is None else prefix.levels
    return TokenTransformer(levels, settings.patch, settings.width, settings.depth)


if __name__ == "__main__":
    command(__doc__.splitlines()[0], "indices", build)
