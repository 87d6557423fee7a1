"""The cache folder of musubi-tuner for Wan: two safetensors files for each clip.

    <bucket>/<name>_00000-<frames>_<width>x<height>_wan.safetensors
    <bucket>/<name>_wan_te.safetensors

Its autoencoder normalises what it encodes, so the cache holds normalised latents. Both tensors are
bfloat16, as in the trainer's own cache.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.operations.export.formats import Format, Target
from pipeline.operations.export.items import Item

_FILE_VERSION: Final = "1.0.1"


def _write(target: Target, items: Iterator[Item]) -> Iterator[int]:
    for item in items:
        assert item.text is not None
        width, height, frames = item.bucket.width, item.bucket.height, item.fields["num_frames"]
        _, t, h, w = item.cells.shape
        about = {"width": str(width), "height": str(height), "frame_count": str(frames)}
        latents = _file(f"latents_{t}x{h}x{w}_bfloat16", item.cells, about)
        text = _file("varlen_t5_bfloat16", item.text, {"caption1": item.caption})
        # The trainer looks for latents first, and leaves out those without a text.
        yield target.write(f"{item.name}_wan_te.safetensors", text)
        size = f"{frames:03d}_{width:04d}x{height:04d}"
        yield target.write(f"{item.name}_00000-{size}_wan.safetensors", latents)


def _file(name: str, values: Tensor, about: Mapping[str, str]) -> bytes:
    """Return a file whose header is sorted: the library's own has a random order."""
    metadata = {"architecture": "wan", "format_version": _FILE_VERSION, **about}
    data: bytes = save({name: values.to(torch.bfloat16).contiguous()}, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


MUSUBI: Final = Format(
    write=_write,
    normalized=True,
    models={"diffusers:AutoencoderKLWan": "transformers:UMT5EncoderModel"},
)
"""The format of musubi-tuner."""
