"""Drawn weights and videos, to compare two implementations of VidTok without a checkpoint.

Every tensor has its own generator, seeded from (seed, name): the order of drawing does not matter.
"""

import math
import zlib

import torch

# Gains over 1/sqrt(fan_in); 1.6 makes up for the variance that SiLU removes. The first convolutions
# are tiny, so that the epsilon of the first normalisation shows; the encoder's last one spreads FSQ
# inputs over the levels; the decoder's last one keeps pixels near [-1, 1]; those on the residual
# stream shrink it, so that every level's branches matter.
GAINS = {
    "encoder.conv_in": 0.02,
    "decoder.conv_in": 0.02,
    "encoder.conv_out": 1.9,
    "decoder.conv_out": 0.6,
}
ON_THE_STREAM = ("downsample", "upsample", "nin_shortcut")


def _generator(seed: int, key: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}:{key}".encode()))


def unit_normal(key: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Return standard normal float32 values that depend on (seed, key) alone."""
    return torch.randn(tuple(shape), generator=_generator(seed, key), dtype=torch.float32)


def make_tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Return the float32 CPU tensor that belongs to the state-dict entry `name`."""
    noise = unit_normal(name, shape, seed)
    gain = GAINS.get(".".join(name.split(".")[:2]))
    if name.endswith(
        "mix_factor"
    ):  # sigmoid of it is near 0.7, and never the 0.5 that hides a swapped blend
        return 0.9 + 0.3 * noise
    if name.endswith("norm.weight"):
        return 1.0 + 0.1 * noise
    if len(shape) == 1:
        return 0.1 * (gain if name.endswith(("conv_in.bias", "conv_in.conv.bias")) else 1.0) * noise
    default = 0.6 if any(part in name for part in ON_THE_STREAM) else 1.6
    return noise * ((gain or default) / math.sqrt(math.prod(shape[1:])))


@torch.no_grad()
def fill_weights(state: dict[str, torch.Tensor], seed: int = 0) -> None:
    """Overwrite, in place, every floating-point tensor of a state dict."""
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(make_tensor(name, tensor.shape, seed))


def synthetic_video(
    batch: int, frames: int, height: int, width: int, seed: int = 0
) -> torch.Tensor:
    """Return a smooth moving video, float32 [batch, 3, frames, height, width], in [-1, 1].

    Each channel of each sample is a sum of six plane waves (1 to 6 cycles over 64 pixels, drifting
    by up to a tenth of a cycle per frame) and a soft disc that crosses the picture, all slowly
    brightening and dimming. Float64 inside.
    """
    g = _generator(seed, "video")
    t = torch.arange(frames, dtype=torch.float64).view(-1, 1, 1)
    y = torch.arange(height, dtype=torch.float64).view(1, -1, 1) / 64
    x = torch.arange(width, dtype=torch.float64).view(1, 1, -1) / 64
    clips = []
    for _ in range(batch):
        left, right, top, down = torch.rand(4, generator=g, dtype=torch.float64).tolist()
        dx, dy = (
            x - 0.75 * left - 0.04 * (right - 0.5) * t,
            y - 0.75 * top - 0.04 * (down - 0.5) * t,
        )
        channels = []
        for channel in range(3):
            waves = torch.rand(6, 4, generator=g, dtype=torch.float64)
            picture = (0.8 - 0.5 * channel) * torch.exp(-(dx**2 + dy**2) / 0.02)
            for i, (angle, phase, drift, size) in enumerate(waves.tolist()):
                cycles = (i + 1) * (
                    math.cos(2 * math.pi * angle) * x + math.sin(2 * math.pi * angle) * y
                )
                wave = torch.sin(2 * math.pi * (cycles + phase + 0.2 * (drift - 0.5) * t))
                picture = picture + (0.3 + 0.4 * size) / (i + 1) * wave
            channels.append(picture * (1 + 0.25 * torch.sin(0.3 * t + channel)))
        clips.append(torch.stack(channels))
    return torch.stack(clips).clamp(-1, 1).float()
