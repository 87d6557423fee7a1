"""Make clips out of photographs: `python examples/pan_and_zoom.py PHOTO… --out FOLDER`.

A camera pans, zooms and turns smoothly over each photograph, by random amounts that follow from the
seed. Where real footage is scarce, such clips add textures and edges to the training of a
tokenizer. They do not replace real motion.
"""

import argparse
import math
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from random import Random

import av
import numpy as np
from PIL import Image


def main() -> None:
    """Write `--clips` clips per photograph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=2, help="per photograph")
    parser.add_argument("--seconds", type=float, default=5.5)
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--height", type=int, default=160)
    parser.add_argument("--width", type=int, default=240)
    parser.add_argument(
        "--darkest",
        type=float,
        default=1.0,
        help="smallest brightness, above 0, of which each clip draws one up to 1",
    )
    parser.add_argument(
        "--shots",
        type=int,
        default=1,
        help="number of shots of a clip, with a cut between them; each has a photograph of its own",
    )
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    size, frames = (asked.height, asked.width), round(asked.seconds * asked.fps)
    for path in asked.photos:
        for n in range(asked.clips):
            rng = Random(f"{asked.seed}/{path.name}/{n}")
            target = asked.out / f"{path.stem}-{n}.mp4"
            cuts = sorted(rng.sample(range(1, frames), asked.shots - 1))
            shown = [path, *rng.choices(asked.photos, k=asked.shots - 1)]
            seen = [
                frame
                for source, (start, end) in zip(shown, pairwise([0, *cuts, frames]), strict=True)
                for frame in film(load(source, size), end - start, size, rng)
            ]
            light = asked.darkest ** rng.random()
            write(target, [np.rint(frame * light).astype(np.uint8) for frame in seen], asked.fps)
            print(target)


@lru_cache(maxsize=8)
def load(path: Path, size: tuple[int, int]) -> Image.Image:
    """Open a photo. A JPEG is read at low resolution."""
    with Image.open(path) as file:
        file.draft("RGB", (4 * size[1], 4 * size[0]))
        return file.convert("RGB")


def film(photo: Image.Image, frames: int, size: tuple[int, int], rng: Random) -> list[np.ndarray]:
    """Return the frames [H, W, 3] of a camera that moves between two views of a photo."""
    height, width = size
    start, end = view(photo, size, rng), view(photo, size, rng)
    wobble, turns = rng.uniform(0, 0.1), rng.uniform(0.5, 2)
    seen = []
    for k in range(frames):
        t = k / max(1, frames - 1)
        eased = t + wobble * math.sin(2 * math.pi * turns * t)  # uneven, like a hand-held camera
        x, y, zoom, angle = (a + (b - a) * eased for a, b in zip(start, end, strict=True))
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        across, down = x - c * width / 2 + s * height / 2, y - s * width / 2 - c * height / 2
        # Drawn at twice the size and halved, so that fine texture does not flicker.
        fine = photo.transform(
            (2 * width, 2 * height),
            Image.Transform.AFFINE,
            (c / 2, -s / 2, across, s / 2, c / 2, down),
            Image.Resampling.BICUBIC,
        )
        seen.append(np.asarray(fine.reduce(2)))
    return seen


def view(
    photo: Image.Image, size: tuple[int, int], rng: Random
) -> tuple[float, float, float, float]:
    """Return centre x and y, photo pixels per frame pixel, and angle of a view inside the photo."""
    height, width = size
    widest = min(photo.width / width, photo.height / height)
    zoom = widest * rng.uniform(0.35, 0.85)
    angle = rng.gauss(0, 0.08)
    reach_x = max(0.0, photo.width - zoom * width * 1.15) / 2
    reach_y = max(0.0, photo.height - zoom * height * 1.15) / 2
    x = photo.width / 2 + rng.uniform(-reach_x, reach_x)
    y = photo.height / 2 + rng.uniform(-reach_y, reach_y)
    return x, y, zoom, angle


def write(path: Path, frames: list[np.ndarray], fps: int) -> None:
    """Write frames as H.264 in high quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "14", "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
