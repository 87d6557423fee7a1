"""Repeated tokens of one FSQ model, by video: what holding near-repeats gives, and what it costs.

    python -m benchmarks.repeats [VIDEO…] [--fps 24] [--clips 2] [--size 128] [--max-loss-db 0.2]

Of each video, the first clips of 17 frames. For each distance d: the share of tokens that repeat
the token one latent frame before, and the loss of PSNR in dB against d = 0. The last columns have
what `hold: {max_loss_db: …}` chooses clip by clip. Below: the mean over videos, the worst clip, and
the CPU time of encoding and of holding.
"""

import argparse
import time
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vidtok
from pipeline.decode import ClipRule, Decoder
from pipeline.errors import PipelineError
from pipeline.records import Sample
from pipeline.tokenizers.reconstruction import as_bytes, clip_psnr
from vidtok.repeats import hold_repeats, hold_within, repeat_share

_MODEL = "vidtok_fsq_causal_488_262144_tiny"
_FRAMES = 17
_VIDEOS = sorted((Path(__file__).parents[1] / "tests/data/videos").glob("*.mp4"))
_DISTANCES = (1, 2, 3)

Frames = NDArray[np.uint8]


def clips_of(path: Path, size: int, fps: float, count: int) -> list[Frames]:
    """Return the frames of the first clips of a video; none if it is too short or broken."""
    rule = ClipRule(frames=_FRAMES, height=size, width=size, fps=fps, short="drop")
    sample = Sample(key=path.stem, video=str(path), video_name=path.name)
    found: list[Frames] = []
    with Decoder(rule) as decoder:
        try:
            for _, frames in decoder.decode(sample, "benchmark"):
                if frames is not None:
                    found.append(frames.copy())
                if len(found) == count:
                    break
        except PipelineError:
            return []
    return found


class Measured:
    """Shares of repeats and losses of clips, and the seconds of a core."""

    def __init__(self, model: vidtok.Tokenizer, max_loss_db: float) -> None:
        self._model = model
        self._max_loss_db = max_loss_db
        self.encode_s = self.hold_s = 0.0
        self.decodes = 0

    def __call__(self, frames: Frames) -> list[float]:
        """Return PSNR, share of repeats at 0, share and loss by distance, and those chosen."""
        levels = self._model.config.fsq_levels
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
        began = time.process_time()
        indices = self._model.encode(video).indices
        assert indices is not None
        self.encode_s += time.process_time() - began

        known: dict[bytes, float] = {}

        def psnr_db(held: Tensor) -> float:
            if (key := held.numpy().tobytes()) not in known:
                decoded = self._model.decode_indices(held, num_frames=len(frames))
                known[key] = clip_psnr(frames, as_bytes(decoded))
            return known[key]

        began = time.process_time()
        chosen, distance = hold_within(indices, levels, self._max_loss_db, psnr_db)
        self.hold_s += time.process_time() - began
        self.decodes += len(known)
        exact_db = psnr_db(indices)
        row = [exact_db, float(repeat_share(indices))]
        for held in (*(hold_repeats(indices, levels, d) for d in _DISTANCES), chosen):
            row += [float(repeat_share(held)), exact_db - psnr_db(held)]
        return [*row, distance]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, default=_VIDEOS)
    parser.add_argument("--fps", type=float, default=24.0)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--max-loss-db", type=float, default=0.2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = Measured(vidtok.load(_MODEL), args.max_loss_db)
    head = "".join(f" | d = {d} | loss" for d in _DISTANCES)
    print(f"| video | clips | dB | d = 0{head} | held | loss | d |")
    print("|---|" + "---:|" * (3 + 2 * len(_DISTANCES) + 3))
    videos, clips = [], []
    for path in args.videos:
        rows = [measured(frames) for frames in clips_of(path, args.size, args.fps, args.clips)]
        if rows:
            clips += rows
            videos.append([mean(column) for column in zip(*rows, strict=True)])
            print(line(f"{path.name} | {len(rows)}", videos[-1]))
    print(line(f"mean of videos | {len(clips)}", [mean(c) for c in zip(*videos, strict=True)]))
    print(line("largest of a clip | ", [max(c) for c in zip(*clips, strict=True)]))
    print(
        f"\nencoding {measured.encode_s / len(clips):.2f} s a clip, holding"
        f" {measured.hold_s / len(clips):.2f} s, {measured.decodes / len(clips):.1f} decodes a clip"
    )


def line(label: str, row: list[float]) -> str:
    """Return a row of the table."""
    psnr_db, share, *pairs, distance = row
    cells = [f"{psnr_db:.2f}", f"{share:.0%}"]
    for held, loss in zip(pairs[::2], pairs[1::2], strict=True):
        cells += [f"{held:.0%}", f"{loss:.2f}"]
    return f"| {label} | {' | '.join(cells)} | {distance:.1f} |"


if __name__ == "__main__":
    main()
