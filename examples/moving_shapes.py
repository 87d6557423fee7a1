"""Make videos of shapes that bounce: `python examples/moving_shapes.py --out out/shapes`.

One disc or square on a plain background moves straight and bounces at the edges. Shape, colours,
size, position and velocity follow from the seed. The first frames determine the rest of a clip.
This is enough to see within minutes whether a generator learns motion.
"""

import argparse
import sys
from pathlib import Path
from random import Random

import numpy as np

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.pan_and_zoom import write

SIZE = 64
FPS = 8
GROUNDS = ((40, 48, 72), (196, 188, 168), (52, 84, 60), (120, 60, 64))
SHAPES = ((236, 200, 60), (220, 84, 60), (84, 164, 228), (244, 244, 240))
FINE = 4
"""Factor of supersampling, so that a shape can move by less than a pixel."""


def main() -> None:
    """Write `--videos` videos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--frames", type=int, default=102)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for n in range(asked.videos):
        frames = film(asked.frames, Random(f"{asked.seed}/{n}"))
        write(asked.out / f"{n:04d}.mp4", frames, FPS)


def film(frames: int, rng: Random) -> list[np.ndarray]:
    """Return frames [64, 64, 3] of one shape."""
    ground, colour, is_disc = rng.choice(GROUNDS), rng.choice(SHAPES), rng.random() < 0.5
    radius = rng.uniform(9, 13)
    starts = [rng.uniform(radius, SIZE - radius) for _ in "yx"]
    speeds = [rng.choice((-1, 1)) * rng.uniform(1, 3) for _ in "yx"]  # pixels per frame
    grid = (np.arange(SIZE * FINE) + 0.5) / FINE
    seen = []
    for t in range(frames):
        y, x = (
            bounced(start + t * speed, radius, SIZE - radius)
            for start, speed in zip(starts, speeds, strict=True)
        )
        down, across = abs(grid - y)[:, None], abs(grid - x)[None, :]
        inside = down**2 + across**2 < radius**2 if is_disc else np.maximum(down, across) < radius
        share = inside.reshape(SIZE, FINE, SIZE, FINE).mean((1, 3))[..., None]
        picture = share * np.array(colour) + (1 - share) * np.array(ground)
        seen.append(picture.round().astype(np.uint8))
    return seen


def bounced(place: float, low: float, high: float) -> float:
    """Return a position after bounces at both ends, from the position without them."""
    turn = (place - low) % (2 * (high - low))
    return low + min(turn, 2 * (high - low) - turn)


if __name__ == "__main__":
    main()
