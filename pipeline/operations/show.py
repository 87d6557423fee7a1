"""Clips for a person: a row, a video, or a picture beside what the tokens decode to."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.dataset.log.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.part_reader import part_rows
from pipeline.dataset.records import Part
from pipeline.dataset.row_sampling import DrawnRow, read_row
from pipeline.dataset.statistics import clip_name
from pipeline.errors import ConfigError, StoreError
from pipeline.formatting import counted, labelled
from pipeline.operations.findings import Finding
from pipeline.operations.outcome import Outcome
from pipeline.operations.recompute import DecodedClip, Recomputer
from pipeline.storage.access import wrong_settings
from pipeline.storage.store import Store
from pipeline.tokenizers.checks import is_untrained
from pipeline.tokenizers.models import job_config

_H264: Final = {"crf": "12", "preset": "fast"}
"""Options of the encoder: its loss must be invisible beside that of a tokenizer."""


_FRAMES_SHOWN: Final = 6
"""Maximum number of frames in a row of a picture."""
_ROW_WIDTH: Final = 1100
"""Width in pixels up to which a row has more than two frames: pages shrink wider pictures."""
_LABEL_WIDTH: Final = 150
_GAP: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownClip(Outcome):
    """One clip's row."""

    part: str
    """Path of the file that holds the row."""
    row: dict[str, Any]
    """Values by column; for cells their number of bytes."""
    video: str | None = None
    """Path of the video that was written."""
    panels: list[str] = field(default_factory=list)
    """Labels of what the video shows, left to right: the original, then each tokenizer."""
    psnr_db: dict[str, float] = field(default_factory=dict)
    """PSNR in dB by tokenizer, in the order of the video."""
    is_first: bool = False
    """Whether no clip was named, so that this is the first one."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        width = 2 + max(map(len, self.row))
        lines = [f"{name:{width}}{value}" for name, value in self.row.items()]
        lines.append(f"{'part':{width}}{self.part}")
        if self.video is not None:
            lines.append(f"{'video':{width}}{self.video}: {' | '.join(self.panels)}")
        if self.is_first:
            lines.append(f"{'choice':{width}}first clip of the first unit by name; or --clip ID")
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPicture(Outcome):
    """A picture of some clips."""

    picture: str
    """Path of the PNG that was written."""
    clips: list[str]
    """Ids of the clips, from top to bottom."""
    psnr_db: dict[str, float]
    """Mean PSNR of these clips in dB, by tokenizer."""
    untrained: list[str]
    """Tokenizers without trained weights, whose frames do not resemble the original."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        return [
            *(labelled("untrained", f"{name}: weights are random") for name in self.untrained),
            *(
                labelled(
                    "psnr",
                    f"{name}: {value:.2f} dB on average over {counted(len(self.clips), 'clip')}",
                )
                for name, value in self.psnr_db.items()
            ),
            *(labelled("clip", clip) for clip in self.clips),
            labelled("picture", self.picture),
        ]


def show_clip(store: Store, clip_id: str | None = None, out: str | None = None) -> ShownClip:
    """Return a clip's row, and write its video if `out` is given.

    Args:
        store: the dataset's root.
        clip_id: id of the row. None: the first row of the first unit by name.
        out: path of the MP4; needs the source and the weights that made the clip.

    Raises:
        ConfigError: there is no dataset or no such clip, or its models cannot be loaded.
        StoreError: the clip's part or source is damaged or missing.
    """
    dataset = read_dataset(store)
    manifest = read_manifest(store)
    if clip_id is not None:
        drawn = find_row(store, manifest, clip_id)
    else:
        [drawn] = _first_rows(store, manifest, 1)
    row = {
        name: f"{len(value)} bytes" if isinstance(value, bytes) else value
        for name, value in read_row(store, drawn).items()
    }
    panels: list[str] = []
    psnr: dict[str, float] = {}
    if out is not None:
        [decoded] = _decoded(store, dataset, [drawn], "without --out its row is shown alone")
        with wrong_settings("--out", out):
            write_video(out, decoded.side_by_side, decoded.fps)
        panels = list(map(str, decoded.panels))
        psnr = decoded.psnr_db
    return ShownClip(
        part=store.locate(drawn.part.path),
        row=row,
        video=out,
        panels=panels,
        psnr_db=psnr,
        is_first=clip_id is None,
    )


def show_picture(store: Store, path: str, clips: int = 3) -> ShownPicture:
    """Write a PNG: for each clip a row of original frames, and a row per tokenizer.

    Args:
        store: the dataset's root.
        path: path of the PNG on a local disk.
        clips: number of clips, of as many different samples as possible.

    Raises:
        ConfigError: there is no dataset or it has no rows, or its models cannot be loaded.
        StoreError: a part or source is damaged or missing.
    """
    dataset = read_dataset(store)
    drawn = _first_rows(store, read_manifest(store), clips)
    found = _decoded(store, dataset, drawn, "it cannot be shown")
    strips: list[tuple[str, NDArray[np.uint8]]] = []
    for one in found:
        original, *others = one.panels
        strips.append((f"{Path(one.row['key']).stem} {one.row['start_s']:.1f} s", original.frames))
        strips += [(str(panel), panel.frames) for panel in others]
    with wrong_settings("--picture", path):
        draw_strips(strips).save(path, "PNG")
    return ShownPicture(
        picture=path,
        clips=[one.row["clip_id"] for one in found],
        psnr_db={name: fmean(c.psnr_db[name] for c in found) for name in found[0].psnr_db},
        untrained=[spec.name for spec in job_config(dataset).tokenizers if is_untrained(spec)],
    )


def find_row(store: Store, manifest: Manifest, clip_id: str) -> DrawnRow:
    """Return the place of a clip's row.

    Args:
        store: the dataset's root.
        manifest: the units that count.
        clip_id: id of the clip, or its `clip_name`.

    Raises:
        ConfigError: no unit has it.
        StoreError: a part of its unit is damaged.
    """
    unit_id, mark, _ = clip_id.partition("/")[0].partition("#")
    unit = manifest.unit(unit_id)
    for part in unit.parts if unit is not None else ():
        ids = _column(store, part, "clip_id")
        if mark:
            ids = list(map(clip_name, ids))
        if unit is not None and clip_id in ids:
            return DrawnRow(unit, part, ids.index(clip_id))
    raise ConfigError(
        f"--clip {clip_id}: no row of {store.uri} has this clip_id, which is unit/key/clip_index;"
        " it may be quarantined, filtered or forgotten"
    )


def _first_rows(store: Store, manifest: Manifest, count: int) -> list[DrawnRow]:
    """Return what `first_rows` finds.

    Raises:
        ConfigError: there are no rows.
        StoreError: a part is damaged or missing.
    """
    if found := first_rows(store, manifest, count):
        return found
    raise ConfigError(
        f"{store.uri}: has no clips to show; `python -m pipeline status` shows what it contains"
    )


def first_rows(store: Store, manifest: Manifest, count: int) -> list[DrawnRow]:
    """Return the places of the first rows of as many different samples as possible.

    Units come in the order of their names, whatever the order in which they were committed. If
    there are fewer samples than `count`, their next rows follow.

    Raises:
        StoreError: a part is damaged or missing.
    """
    samples: dict[tuple[str, str], list[DrawnRow]] = {}
    for unit in sorted(manifest.units(), key=lambda unit: unit.unit):
        if len(samples) >= count:
            break
        for part in unit.parts:
            for n, key in enumerate(_column(store, part, "key")):
                samples.setdefault((key, unit.unit), []).append(DrawnRow(unit, part, n))
    turns = zip_longest(*(samples[name] for name in sorted(samples)))
    return [row for turn in turns for row in turn if row is not None][:count]


def _column(store: Store, part: Part, name: str) -> list[str]:
    """Return one column of a unit's rows of a part."""
    return [value for rows in part_rows(store, part, [name]) for value in rows[name].to_pylist()]


def _decoded(
    store: Store, dataset: Dataset, drawn: Sequence[DrawnRow], advice: str
) -> list[DecodedClip]:
    """Return the rows' clips, decoded from source and tokens, in the order of the rows.

    Raises:
        StoreError: a clip cannot be decoded from its source.
    """
    clips: dict[int, DecodedClip] = {}
    with closing(Recomputer(store, dataset, retokenize=False, decode=True)) as recomputer:
        for found in recomputer.clips(drawn):
            if isinstance(found, Finding):
                raise StoreError(f"{found}; {advice}")
            clips[found.index] = recomputer.decode(found)
    return [clips[index] for index in range(len(drawn))]


def write_video(path: str, frames: NDArray[np.uint8], fps: float) -> None:
    """Write an MP4 (H.264, 4:2:0), replacing an existing file.

    Args:
        path: path on a local disk.
        frames: frames [T, H, W, 3]; the last line of an odd height or width is dropped.
        fps: frames per second, above 0.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = (size - size % 2 for size in frames.shape[1:3])
    with av.open(path, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=_H264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), "rgb24"
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def draw_strips(strips: Sequence[tuple[str, NDArray[np.uint8]]]) -> Image.Image:
    """Return labelled rows of frames, taken evenly from each clip [T, H, W, 3], as one picture."""
    rows = [_evenly(clip) for _, clip in strips]
    widest = max(len(row) * (row.shape[2] + _GAP) for row in rows)
    height = sum(row.shape[1] + _GAP for row in rows)
    picture = Image.new("RGB", (_LABEL_WIDTH + widest, height), "white")
    text = ImageDraw.Draw(picture)
    top = 0
    for (label, _), row in zip(strips, rows, strict=True):
        height, width = row.shape[1:3]
        text.text((6, top + height // 2 - 6), label, fill="black")
        for column, frame in enumerate(row):
            left = _LABEL_WIDTH + column * (width + _GAP)
            picture.paste(Image.fromarray(frame), (left, top))
        top += height + _GAP
    return picture


def _evenly(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return as many frames of a clip [T, H, W, 3] as a row of a picture has room for."""
    room = max(2, _ROW_WIDTH // (clip.shape[2] + _GAP))
    num = min(_FRAMES_SHOWN, room, len(clip))
    shown: NDArray[np.uint8] = clip[np.linspace(0, len(clip) - 1, num).round().astype(int)]
    return shown
