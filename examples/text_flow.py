"""A flow over latents that follows text: `python examples/text_flow.py LATENTS TEXTS --out …`.

The latents are those of any autoencoder, such as `AutoencoderKLWan`'s [16, t, h, w]. The texts are
a sibling dataset, which `python -m pipeline embed` makes from the rows of the first. Joined, each
batch has the latents of some clips and the embeddings of the captions of the same clips. Captions
have different numbers of tokens, so a batch pads them and says which tokens count.

The network is `examples/latent_flow.py`'s, whose patches attend once to the tokens of the text.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pipeline
from examples.generators.clips import clip_buckets, endless
from examples.latent_flow import LatentFlow, channel_statistics
from pipeline.errors import ConfigError, PipelineError
from pipeline.reading import Snapshot, TokenDataset, TokenizerColumn

_HEADS = 4


class TextFlow(LatentFlow):
    """The generator.

    Args:
        mean: mean of each channel over the corpus, [C].
        std: standard deviation of each channel, [C].
        channels: channels of a token of text.
        patch: cells along the side of a patch.
        width: width of the transformer.
        depth: number of its blocks.
    """

    def __init__(
        self, mean: Tensor, std: Tensor, channels: int, patch: int, width: int, depth: int
    ) -> None:
        super().__init__(mean, std, patch, width, depth)
        self.text = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, _HEADS, batch_first=True)

    def conditioned(self, patches: Tensor, *condition: Tensor) -> Tensor:
        """Return patches [B, N, D] that attended to texts [B, n, c] where masks [B, n] are true."""
        texts, counts = condition
        tokens = self.text(texts)
        found, _ = self.attention(self.norm(patches), tokens, tokens, key_padding_mask=~counts)
        return patches + found


def padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return embeddings [n_i, c] as one tensor [B, n, c], and which tokens count [B, n]."""
    lengths = torch.tensor([len(text) for text in texts])
    filled = nn.utils.rnn.pad_sequence([text.float() for text in texts], batch_first=True)
    return filled, torch.arange(filled.shape[1]) < lengths[:, None]


def only_column(corpus: Snapshot, kind: str) -> TokenizerColumn:
    """Return the first column of a kind.

    Raises:
        ConfigError: there is none.
    """
    for column in corpus.tokenizers:
        if column.kind == kind:
            return column
    raise ConfigError(f"{corpus.store.uri}: has no column of {kind}")


def train(
    latents: Snapshot,
    texts: Snapshot,
    *,
    steps: int,
    batch: int = 4,
    patch: int = 2,
    width: int = 128,
    depth: int = 4,
    lr: float = 2e-3,
    seed: int = 0,
    loaders: int = 0,
) -> tuple[TextFlow, list[float]]:
    """Train on the clips that both datasets have; return the generator and its losses by step.

    Raises:
        ConfigError: the datasets are not siblings, or have too few clips, or there is no step.
    """
    if steps < 1:
        raise ConfigError(f"--steps {steps}: must be 1 or more")
    cells, text = only_column(latents, "latents"), only_column(texts, "embeddings")
    joined = latents.join(texts)
    data = TokenDataset(
        joined,
        [cells.name, text.name],
        batch,
        buckets=clip_buckets(joined),
        seed=seed,
        drop_last=True,
    )
    if not len(data):
        raise ConfigError(f"--batch {batch}: both datasets together have too few clips of a bucket")
    torch.manual_seed(seed)
    batches = endless(data, loaders)
    first = next(batches)
    generator = TextFlow(
        *channel_statistics(latents, cells), first[text.name][0].shape[1], patch, width, depth
    )
    optimizer = torch.optim.AdamW(generator.parameters(), lr, betas=(0.9, 0.95))
    losses = []
    for each in islice(batches, steps):
        loss = generator(each[cells.name], *padded(each[text.name])).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return generator, losses


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", help="dataset of latents: a folder, or s3://…")
    parser.add_argument("texts", help="dataset of the embeddings of its captions")
    parser.add_argument("--out", required=True, help="file for the weights")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4, help="clips per step")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--loaders", type=int, default=0, help="reading processes")
    asked = vars(parser.parse_args())
    latents, texts, out = asked.pop("latents"), asked.pop("texts"), asked.pop("out")
    try:
        generator, losses = train(pipeline.open(latents), pipeline.open(texts), **asked)
    except PipelineError as error:
        sys.exit(str(error))
    torch.save(generator.state_dict(), out)
    last = losses[-len(losses) // 10 :]
    print(f"loss {losses[0]:.3f} → {sum(last) / len(last):.3f} {generator.loss_unit}")


if __name__ == "__main__":
    main()
