"""Flicker where independent clips meet, and at the same frames of one stream.

    python -m benchmarks.seams [VIDEO…] [--model NAME] [--stream MODEL]

The frames of a video, 8 a second at 128×128, are decoded from clips of 17 by a v1.0 model, and from
one stream in chunks of 16 by a v1.1 model: by the v1.0 model's weights under the rules of v1.1, and
by a model that was trained with these rules (`--stream`; the bundled one without). Flicker of a
frame is the mean absolute change of the error since the frame before, in levels of 256. Numbers are
means over videos.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import vidtok
from pipeline.decode import ClipRule, Decoder
from pipeline.records import Sample

FRAMES = 17
CHUNK = 16
MODELS = ["vidtok_fsq_causal_488_262144_tiny", "vidtok_kl_causal_488_8chn_tiny"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    demo = sorted(Path("pipeline/demo/videos").glob("*.mp4"))
    parser.add_argument("videos", type=Path, nargs="*", default=demo)
    parser.add_argument("--model", action="append", help="v1.0 model: name or path; may repeat")
    parser.add_argument("--stream", help="trained v1.1 model: name or path")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    videos = [video for path in asked.videos if len(video := clips_of(path)) > 1]
    print("| model | PSNR, dB | flicker at borders | inside |\n| --- | ---: | ---: | ---: |")
    for name in asked.model or MODELS:
        old = vidtok.load(name).float()
        ways = [("v1.0, clips", old), ("v1.0 weights, stream", as_v1_1(old))]
        if trained := asked.stream or vidtok.bundled_weights(f"{name}_v1_1"):
            ways.append(("v1.1, stream", vidtok.load(trained).float()))
        for way, model in ways:
            scores = [seams(video, decoded(model, video)) for video in videos]
            psnr, border, inside = map(fmean, zip(*scores, strict=True))
            print(f"| {name}: {way} | {psnr:.2f} | {border:.2f} | {inside:.2f} |", flush=True)


def as_v1_1(old: vidtok.Tokenizer) -> vidtok.Tokenizer:
    """Return the weights of a v1.0 tokenizer under the rules of v1.1."""
    new = vidtok.build(dataclasses.replace(old.config, network="causal_v1_1"))
    new.load_state_dict(old.state_dict())
    return new


def clips_of(path: Path) -> list[Tensor]:
    """Return the clips of a video, `[1, 3, 17, 128, 128]` in levels of 256, in their order."""
    rule = ClipRule(frames=FRAMES, height=128, width=128, fps=8.0, short="drop")
    sample = Sample(key=path.name, video=str(path), video_name=path.name)
    with Decoder(rule) as decoder:
        pixels = [found for _, found in decoder.decode(sample, "u")]
    return [torch.tensor(p).permute(3, 0, 1, 2)[None] for p in pixels if p is not None]


def decoded(model: vidtok.Tokenizer, clips: Sequence[Tensor]) -> Tensor:
    """Return the frames of a video in levels of 256: in clips by v1.0, as one stream by v1.1."""
    if not model.config.time_rule.chunkable:
        parts = [model.decode(model.encode(clip).latent, num_frames=FRAMES) for clip in clips]
        frames = torch.cat(parts, 2)
    else:
        frames_in = FRAMES * len(clips)
        stream = model.encode_stream(frames_in, CHUNK)
        pieces = [piece.latent for clip in clips if (piece := stream.push(clip)) is not None]
        frames = model.decode(torch.cat(pieces, 2), num_frames=frames_in, chunk_frames=CHUNK)
    return (frames.clamp(-1, 1) + 1) * 127.5


def seams(clips: Sequence[Tensor], frames: Tensor) -> tuple[float, float, float]:
    """Return PSNR in dB, and the mean flicker at the borders of clips and inside them."""
    error = frames - torch.cat(list(clips), 2).float()
    psnr = 20 * torch.log10(255 / error.square().mean().sqrt())
    flicker = error.diff(dim=2).abs().mean((0, 1, 3, 4))
    at_border = torch.arange(1, error.shape[2]) % FRAMES == 0
    return float(psnr), float(flicker[at_border].mean()), float(flicker[~at_border].mean())


if __name__ == "__main__":
    main()
