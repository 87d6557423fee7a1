"""Turn a dataset back into pictures: `python examples/decode_back.py out/demo --picture back.png`.

Reads the parts as plain Parquet, decodes tokens with `vidtok`, cuts the same clips out of the
source videos again, and draws them side by side: for each clip a row of original frames, and a row
of decoded frames per tokenizer, with its PSNR.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.decode import Decoder, clip_rules
from pipeline.operations.recompute import source_clips
from pipeline.storage.store import Store
from pipeline.tokenizers.models import is_untrained, job_config, open_models
from pipeline.tokenizers.reconstruction import clip_psnr, decode_cells, eight_bits

FRAMES_SHOWN = 6
LABEL_WIDTH = 150
GAP = 4


def main() -> None:
    """Draw some clips of a dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="a dataset on a local disk")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    parser.add_argument("--clips", type=int, default=3)
    asked = parser.parse_args()

    store = Store(str(asked.output))
    dataset = read_dataset(store)
    for spec in job_config(dataset).tokenizers:
        if is_untrained(spec):
            print(f"{spec.name}: untrained weights, so its pictures show nothing of the original")
    models = open_models(dataset)
    lists = job_config(dataset).source.lists
    manifest = read_manifest(store)
    sources = {unit.unit: unit.sources for unit in manifest.units()}
    parts = [store.locate(part.path) for part in manifest.parts()]
    strips: list[tuple[str, NDArray[np.uint8]]] = []
    errors: dict[str, list[float]] = {name: [] for name in models}
    with Decoder(clip_rules(dataset.identity["clip"])) as decoder:
        for row in some_rows(parts, asked.clips):
            unit, key, index = row["unit"], row["key"], row["clip_index"]
            found = list(source_clips(decoder, unit, sources[unit], key, {index}, lists))
            if not found:
                raise SystemExit(f"{row['clip_id']}: its source is not what it was")
            original = eight_bits(found[0][1])
            strips.append((f"{Path(key).stem} {row['start_s']:.1f} s", original))
            for column in dataset.tokenizers:
                name = column.name
                decoded = decode_cells(models[name], column, row, len(original))
                errors[name].append(clip_psnr(original, decoded))
                strips.append((f"{name}  {errors[name][-1]:.1f} dB", decoded))
    draw(strips, asked.picture)
    for name, values in errors.items():
        print(f"{name}: PSNR {np.mean(values):.2f} dB over {len(values)} clips")
    print(f"picture    {asked.picture}")


def some_rows(parts: list[str], count: int) -> list[dict[str, Any]]:
    """Return rows of as many different videos as there are, then further clips of them."""
    rows = ds.dataset(parts).to_table().to_pylist()
    turn: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row["key"], row["clip_index"])):
        row["turn"] = turn[row["key"]] = turn.get(row["key"], -1) + 1
    return sorted(rows, key=lambda row: (row["turn"], row["key"]))[:count]


def draw(strips: list[tuple[str, NDArray[np.uint8]]], path: Path) -> None:
    """Write labelled rows of frames, evenly taken from each clip, as one picture."""
    rows = [
        clip[np.linspace(0, len(clip) - 1, min(FRAMES_SHOWN, len(clip))).round().astype(int)]
        for _, clip in strips
    ]
    widest = max(len(row) * (row.shape[2] + GAP) for row in rows)
    size = (LABEL_WIDTH + widest, sum(row.shape[1] + GAP for row in rows))
    picture = Image.new("RGB", size, "white")
    text = ImageDraw.Draw(picture)
    top = 0
    for (label, _), row in zip(strips, rows, strict=True):
        height, width = row.shape[1:3]
        text.text((6, top + height // 2 - 6), label, fill="black")
        for column, frame in enumerate(row):
            left = LABEL_WIDTH + column * (width + GAP)
            picture.paste(Image.fromarray(frame), (left, top))
        top += height + GAP
    picture.save(path)


if __name__ == "__main__":
    main()
