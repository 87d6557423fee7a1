"""Turn a dataset back into pictures: `python examples/decode_back.py out/demo --picture back.png`.

Reads the parts as plain Parquet, decodes tokens with `vidtok`, cuts the same clips out of the
source videos again, and draws them side by side: for each clip a row of original frames, and a row
of decoded frames per tokenizer, with its PSNR.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.config import TokenizerSpec
from pipeline.decode import ClipRule, Decoder
from pipeline.models import is_untrained, open_model
from pipeline.records import LooseFile, Sample, WorkUnit
from pipeline.samples import read_samples

FRAMES_SHOWN = 6
LABEL_WIDTH = 150
GAP = 4
NUMPY = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "float16": "<f2", "float32": "<f4"}


def main() -> None:
    """Draw some clips of a dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="a dataset on a local disk")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    parser.add_argument("--clips", type=int, default=3)
    asked = parser.parse_args()

    head = json.loads((asked.output / "dataset.json").read_text())
    specs = [TokenizerSpec.model_validate(spec) for spec in head["config"]["tokenizers"]]
    for spec in specs:
        if is_untrained(spec):
            print(f"{spec.name}: untrained weights, so its pictures show nothing of the original")
    models = {spec.name: open_model(spec) for spec in specs}
    rule = ClipRule(**head["identity"]["clip"])
    strips: list[tuple[str, NDArray[np.uint8]]] = []
    errors: dict[str, list[float]] = {spec.name: [] for spec in specs}
    for row in some_rows(asked.output, asked.clips):
        original = source_frames(asked.output, row, rule)
        strips.append((f"{Path(row['key']).stem} {row['start_s']:.1f} s", original))
        for column in head["tokenizers"]:
            name = column["name"]
            decoded = decode(models[name], column, row, rule.frames)
            errors[name].append(psnr(original, decoded))
            strips.append((f"{name}  {errors[name][-1]:.1f} dB", decoded))
    draw(strips, asked.picture)
    for name, values in errors.items():
        print(f"{name}: PSNR {np.mean(values):.2f} dB over {len(values)} clips")
    print(f"picture    {asked.picture}")


def some_rows(output: Path, count: int) -> list[dict[str, Any]]:
    """Return rows of as many different videos as there are, then further clips of them."""
    rows = ds.dataset(output / "data", partitioning=None).to_table().to_pylist()
    turn: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row["key"], row["clip_index"])):
        row["turn"] = turn[row["key"]] = turn.get(row["key"], -1) + 1
    return sorted(rows, key=lambda row: (row["turn"], row["key"]))[:count]


def decode(
    model: Any, column: dict[str, Any], row: dict[str, Any], frames: int
) -> NDArray[np.uint8]:
    """Return the frames [T, H, W, 3] that a row's tokens stand for."""
    shape = row[f"{column['name']}_shape"]
    cells = row[column["name"]]
    if column["dtype"] == "bfloat16":
        values = torch.frombuffer(bytearray(cells), dtype=torch.bfloat16)
    else:
        values = torch.from_numpy(np.frombuffer(cells, NUMPY[column["dtype"]]).copy())
    values = values.reshape(1, *shape)
    if column["kind"] == "fsq":
        video = model.decode_indices(values, num_frames=frames)
    else:
        video = model.decode(values, num_frames=frames)
    pixels = ((video[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).numpy()


def source_frames(output: Path, row: dict[str, Any], rule: ClipRule) -> NDArray[np.uint8]:
    """Decode the clip of a row from its source again."""
    with Decoder(rule) as decoder:
        for sample in source_samples(output, row["unit"], row["key"]):
            for clip, frames in decoder.decode(sample, row["unit"]):
                if clip.clip_index == row["clip_index"] and frames is not None:
                    return frames.round().astype(np.uint8)
    raise SystemExit(f"{row['clip_id']}: its source is not what it was")


def source_samples(output: Path, unit: str, key: str) -> Iterator[Sample]:
    """Yield the sample of a key, from the sources that the manifest names for its unit."""
    manifest = max((output / "manifest").iterdir())
    table = ds.dataset(manifest).to_table(
        columns=["unit", "sources"], filter=ds.field("unit") == unit
    )
    sources = table["sources"][0].as_py()
    files = tuple(LooseFile(key=key, uri=uri) for uri in sources if uri.endswith(f"/{key}"))
    again = WorkUnit(unit=unit, files=files) if files else WorkUnit(unit=unit, tar_uri=sources[0])
    for sample in read_samples(again, max_video_mb=1e6):
        if isinstance(sample, Sample) and sample.key == key:
            yield sample


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two clips, in dB."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def draw(strips: list[tuple[str, NDArray[np.uint8]]], path: Path) -> None:
    """Write labelled rows of frames, evenly taken from each clip, as one picture."""
    frames, height, width = strips[0][1].shape[:3]
    chosen = np.linspace(0, frames - 1, min(FRAMES_SHOWN, frames)).round().astype(int)
    size = (LABEL_WIDTH + len(chosen) * (width + GAP), len(strips) * (height + GAP))
    picture = Image.new("RGB", size, "white")
    text = ImageDraw.Draw(picture)
    for n, (label, clip) in enumerate(strips):
        top = n * (height + GAP)
        text.text((6, top + height // 2 - 6), label, fill="black")
        for column, frame in enumerate(chosen):
            left = LABEL_WIDTH + column * (width + GAP)
            picture.paste(Image.fromarray(clip[frame]), (left, top))
    picture.save(path)


if __name__ == "__main__":
    main()
