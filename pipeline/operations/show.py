"""One clip of a dataset: its row, and its original beside what its tokens decode to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.row_sampling import DrawnRow, read_row
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.findings import Finding
from pipeline.operations.recompute import Again
from pipeline.records import Sample
from pipeline.storage.store import Store
from pipeline.tokenizers.reconstruction import clip_psnr, eight_bits

_QUALITY: Final = {"crf": "12", "preset": "fast"}
"""Of H.264: no difference that an eye sees, where a tokenizer's is to be seen."""


def write_video(path: str, frames: NDArray[np.uint8], fps: float) -> None:
    """Write an MP4 that every player opens, replacing what is there.

    Args:
        path: on a local disk.
        frames: [T, H, W, 3]; of an odd height or width the last line is left out.
        fps: frames per second, above 0.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = (size - size % 2 for size in frames.shape[1:3])
    with av.open(path, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=_QUALITY)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), "rgb24"
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownClip:
    """A clip as it was found."""

    part: str
    """Path of the file that its row is in."""
    row: dict[str, Any]
    """Its columns; of cells their number of bytes."""
    video: str | None = None
    """Path of the video that was written: the original, then each tokenizer, left to right."""
    psnr_db: dict[str, float] = field(default_factory=dict)
    """By tokenizer, in the order of the video."""

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"part": self.part, "row": self.row, "video": self.video, "psnr_db": self.psnr_db}

    def lines(self) -> list[str]:
        """Return the same for a person."""
        width = 2 + max(map(len, self.row))
        lines = [f"{name:{width}}{value}" for name, value in self.row.items()]
        lines.append(f"{'part':{width}}{self.part}")
        if self.video is not None:
            shown = "".join(f" | {name} {value:.2f} dB" for name, value in self.psnr_db.items())
            lines.append(f"{'video':{width}}{self.video}: original{shown}")
        return lines


def show(store: Store, clip_id: str, out: str | None = None) -> ShownClip:
    """Return a clip's row, and write its video if asked to.

    Args:
        store: the dataset's root.
        clip_id: of a row.
        out: path of the MP4 to write; needs the source, and the weights, that made the clip.

    Raises:
        ConfigError: there is no dataset or no such clip, or its models are not to be had.
        StoreError: the clip's part or source is not what it was.
    """
    dataset = read_dataset(store)
    drawn = find_row(store, read_manifest(store), clip_id)
    row = read_row(store, drawn)
    plain = {
        name: f"{len(value)} bytes" if isinstance(value, bytes) else value
        for name, value in row.items()
    }
    psnr = _write(dataset, drawn.unit, row, out) if out is not None else {}
    return ShownClip(part=store.locate(drawn.part.path), row=plain, video=out, psnr_db=psnr)


def find_row(store: Store, manifest: Manifest, clip_id: str) -> DrawnRow:
    """Return where the row of a clip stands.

    Raises:
        ConfigError: no unit has it.
        StoreError: a part of its unit is damaged.
    """
    unit = manifest.unit(clip_id.partition("/")[0])
    if unit is not None:
        for part in unit.parts:
            with open_parquet(store, part.path) as parquet:
                tables = list(unit_rows(parquet, part, ["clip_id"]))
            ids = [name for table in tables for name in table["clip_id"].to_pylist()]
            if clip_id in ids:
                return DrawnRow(unit, part, ids.index(clip_id))
    raise ConfigError(
        f"--clip {clip_id}: no row of {store.uri} has this clip_id, which is unit/key/clip_index;"
        " it may be quarantined or filtered"
    )


def _write(
    dataset: Dataset, unit: UnitRecord, row: Mapping[str, Any], out: str
) -> dict[str, float]:
    """Write original and decoded clips, side by side; return the PSNR of each tokenizer."""
    with Again(dataset, retokenize=False, decode=True) as again:
        [found] = again.clips(unit, [row])
        if isinstance(found, Finding):
            raise StoreError(f"{found.where}: {found.detail}; without --out its row is shown alone")
        frames = found[2]
        assert not isinstance(frames, Sample)  # `Again` refuses
        original = eight_bits(frames)
        decoded = again.decoded(row, len(original))
    seconds = row["end_s"] - row["start_s"]
    # An image has no duration, and is shown for a second.
    fps = (row["num_frames"] - row["padded_frames"]) / seconds if seconds else 1.0
    write_video(out, np.concatenate([original, *decoded.values()], axis=2), fps)
    return {name: clip_psnr(original, clip) for name, clip in decoded.items()}
