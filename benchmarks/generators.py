"""Token transformers on held-out clips: bits of a token, and PSNR of decoded and continued clips.

    python -m benchmarks.generators DATASET RUN…

`RUN` is the `--out` of `examples/token_transformer.py` on the dataset. Bits are those of the
averaged weights, without noise in the input. PSNR is that of the clips' own tokens, decoded from
the channels that the run keeps. A continuation is given the tokens of the first five frames, and
draws the others; its PSNR is that of the frames after them, with the standard error over clips. All
are means over the clips that the run holds out. The last line repeats the fifth frame.
"""

import argparse
import io
from contextlib import closing
from statistics import fmean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pipeline
from examples import token_transformer
from examples.generators.clips import is_held_out
from examples.generators.training import Settings
from pipeline.dataset.cells import row_cells
from pipeline.dataset.row_sampling import draw_rows
from pipeline.operations.recompute import Recomputer, SourceClip
from pipeline.storage import Store
from pipeline.tokenizers.models import open_models
from pipeline.tokenizers.reconstruction import as_bytes, clip_psnr
from pipeline.tokenizers.vidtok_adapter import VidTok

BEGIN = 2
"""Number of latent frames that a continuation is given."""
FRAMES = 5
"""Number of frames that they stand for, in a causal tokenizer that compresses time four times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | channels | steps | clips | nats/digit | bits/token | PSNR, dB | continued, dB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for run in asked.runs:
        cells, still = _cells(asked.dataset, run)
        print(f"| {run} | {' | '.join(cells)} |", flush=True)
    print(f"| the fifth frame repeated | | | | | | | {still:.2f} |")


@torch.no_grad()
def _cells(dataset: str, run: str) -> tuple[tuple[str, ...], float]:
    """Return the cells of a run's row, and the PSNR of clips whose fifth frame is repeated."""
    torch.manual_seed(0)
    data = Store(run).read("checkpoint.pt")
    saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    settings = Settings(
        **{name: value for name, value in saved["settings"].items() if name != "kind"},
        **{"corpus": dataset, "out": run},
        **dict.fromkeys(("samples", "save_every"), 1),
        **dict.fromkeys(("loaders", "workers"), 0),
    )
    corpus = pipeline.open(dataset, saved["version"])
    column = next(column for column in corpus.tokenizers if column.kind == "indices")
    generator = token_transformer.build(corpus, column, settings).eval()
    generator.load_state_dict(saved["averaged"])
    prefix = corpus.prefixes(settings.kept(column)).get(column.name)
    model = open_models(corpus.dataset)[column.name]
    assert isinstance(model, VidTok)

    def decoded(cells: Tensor, num_frames: int) -> NDArray[np.uint8]:
        if prefix is None:
            return as_bytes(model.decode(cells, num_frames))
        return as_bytes(model.decode_prefixes(cells, num_frames, prefix.k))

    nats, decibels, continued, still = [], [], [], []
    rows = draw_rows(corpus.manifest, sum(corpus.buckets.values()), seed=0)
    source = Recomputer(corpus.store, corpus.dataset, retokenize=False, decode=False)
    with closing(source):
        for clip in source.clips(rows):
            assert isinstance(clip, SourceClip), clip
            assert isinstance(clip.frames, np.ndarray)
            if not is_held_out(clip.row["key"], settings.held_out):
                continue
            stored = row_cells(clip.row[column.name], clip.row[f"{column.name}_shape"], column)
            cells, frames = torch.from_numpy(stored.astype(np.int64))[None], clip.frames
            if prefix is not None:
                cells = prefix(cells)
            nats.append(generator(cells).item())
            decibels.append(clip_psnr(decoded(cells, len(frames)), frames))
            drawn = generator.sample(1, tuple(cells.shape[1:]), cells[:, :BEGIN])
            continued.append(clip_psnr(decoded(drawn, len(frames))[FRAMES:], frames[FRAMES:]))
            last = np.broadcast_to(frames[FRAMES - 1], frames[FRAMES:].shape)
            still.append(clip_psnr(last, frames[FRAMES:]))
    bits = fmean(nats) * generator.bits_per_loss
    numbers = f"{fmean(nats):.3f}", f"{bits:.2f}", f"{fmean(decibels):.2f}"
    error = stdev(continued) / len(continued) ** 0.5
    numbers = *numbers, f"{fmean(continued):.2f} ± {error:.2f}"
    steps = len(saved["trained"])
    return (str(len(generator.levels)), str(steps), str(len(nats)), *numbers), fmean(still)


if __name__ == "__main__":
    main()
