"""The precomputed folder of LTX-2's trainer: one file of latents for each clip, and the captions.

    <bucket>/latents/<group>/<name>.pt
    <bucket>/captions/<group>.jsonl

Its autoencoder normalises what it encodes, so the folder holds normalised latents. The trainer's
own `process_captions.py` makes `<bucket>/conditions/` from the captions.
"""

import io
import json
from collections.abc import Iterator
from typing import Final

import torch

from pipeline.operations.export.formats import Format, Target
from pipeline.operations.export.items import Item


def _write(target: Target, items: Iterator[Item]) -> Iterator[int]:
    captions = []
    for item in items:
        _, t, h, w = item.cells.shape
        values = {
            "latents": item.cells.to(torch.bfloat16).contiguous(),
            "num_frames": t,
            "height": h,
            "width": w,
            "fps": item.fps,
        }
        file = io.BytesIO()
        torch.save(values, file)
        yield target.write(f"latents/{target.group}/{item.name}.pt", file.getvalue())
        path = f"{target.group}/{item.name}.mp4"  # its stem names the file of the embedding
        clip_id = item.fields["clip_id"]
        captions.append({"caption": item.caption, "media_path": path, "clip_id": clip_id})
    if captions:
        lines = "".join(json.dumps(caption) + "\n" for caption in captions)
        yield target.write(f"captions/{target.group}.jsonl", lines.encode())


LTX2: Final = Format(
    write=_write,
    normalized=True,
    models={"diffusers:AutoencoderKLLTX2Video": None},
    why_no_text="its conditions are features that process_captions.py of the trainer computes with"
    " a part of LTX-2's checkpoint, from the captions that this export writes",
)
"""The format of LTX-2's trainer."""
