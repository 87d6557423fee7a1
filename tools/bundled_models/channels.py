"""Fits the order of channels of the bundled FSQ model to videos, and measures it on others.

    python -m tools.bundled_models.channels --fit VIDEO… --held-out VIDEO… [--keep]

Clips have 17 frames of 128×128 at 8 fps. The order and the fills come from the tokens of the videos
to fit; the table has the PSNR of decoded clips of the other videos to their frames, as means over
clips. With `--keep` the file in the package stays, and is measured.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

import vidtok
from pipeline.decode import ClipRule, Decoder
from pipeline.quarantine import QuarantineError
from pipeline.records import Sample
from vidtok import channels
from vidtok.channel_fit import fit

_MODEL = "vidtok_fsq_causal_488_262144_tiny"


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fit", type=Path, nargs="+", required=True, help="videos to fit to")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="other videos")
    parser.add_argument("--clips", type=int, default=6, help="maximum number of clips of a video")
    parser.add_argument("--keep", action="store_true", help="keep the file in the package")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    weights = vidtok.bundled_weights(_MODEL)
    assert weights is not None
    if not asked.keep:
        channels.beside(weights).unlink(missing_ok=True)
        model = vidtok.load(_MODEL)
        tokens = [_tokens(model, clip)[0] for clip in clips_of(asked.fit, asked.clips)]
        channels.save(fit(model, tokens), channels.beside(weights))
        print(f"fitted to {len(tokens)} clips of {len(asked.fit)} videos")
    model = vidtok.load(_MODEL)
    order = model.channels
    assert order is not None
    num = len(order.order)
    psnr: dict[int, list[float]] = {k: [] for k in range(1, num + 1)}
    for clip in clips_of(asked.held_out, asked.clips):
        tokens_of_clip = _tokens(model, clip)
        for k, found in psnr.items():
            prefixes = order.prefix_indices(tokens_of_clip, k)
            found.append(_psnr(model.decode_indices(prefixes, channels=k), clip))
    print(f"channels by worth {order.order}; {len(psnr[1])} clips of {len(asked.held_out)} videos")
    print("| channels | codes | bits/token | PSNR, dB | to all channels |\n|---|---|---|---|---|")
    for k in range(num, 0, -1):
        size = order.codebook_size(k)
        mean, lost = (sum(found) / len(found) for found in (psnr[k], _gaps(psnr[k], psnr[num])))
        print(f"| {k} | {size:,} | {math.log2(size):g} | {mean:.2f} | {lost:+.2f} |")


def clips_of(videos: Sequence[Path], most: int) -> Iterator[Tensor]:
    """Yield the first clips of each video, uint8 `[1, 3, T, H, W]`; a broken video has none."""
    rule = ClipRule(frames=17, height=128, width=128, fps=8.0, short="drop")
    with Decoder(rule) as decoder:
        for path in videos:
            sample, found = Sample(key=path.name, video=str(path), video_name=path.name), 0
            with suppress(QuarantineError, OSError):
                for _, pixels in decoder.decode(sample, "u"):
                    if pixels is None or found == most:
                        break
                    found += 1
                    yield torch.tensor(pixels).permute(3, 0, 1, 2)[None]


def _tokens(model: vidtok.Tokenizer, clip: Tensor) -> Tensor:
    indices = model.encode(clip).indices
    assert indices is not None
    return indices


def _psnr(frames: Tensor, clip: Tensor) -> float:
    error = (frames.clamp(-1, 1) - (clip.float() / 127.5 - 1)).square().mean().item() / 4
    return -10 * math.log10(error)


def _gaps(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]


if __name__ == "__main__":
    main()
