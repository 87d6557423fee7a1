"""The YAML file of a first job, with comments for the person who continues it."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.formatting import counted, format_bytes, visible
from pipeline.operations.init.shapes import Shapes, fitting_models
from pipeline.operations.init.survey import Survey
from pipeline.operations.machine import Gpu
from pipeline.sources.lists import is_list
from vidtok.presets import bundled_weights

_NO_RATE: Final = "null  # every frame: most videos are too short, or too slow, for 8 a second"
"""Rate of the clips if the usual one does not suit, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the settings of a first job follow from."""

    model: str
    weights: str | None
    survey: Survey
    shapes: Shapes
    gpus: Sequence[Gpu]

    def text(self, schema: str, found: Sequence[str]) -> str:
        """Return the YAML file.

        Args:
            schema: path of the JSON Schema, relative to the file.
            found: lines about the source.
        """
        sections = [
            [
                f"# yaml-language-server: $schema={schema}",
                *(f"# {visible(line)}" for line in found),
            ],
            self._source(),
            ["clip:", *self._clip()],
            ["tokenizers:", *self._tokenizer(), *self._other_models()],
            self._sound(),
            ["tokenize:", *self._tokenize()],
            ["output:", f"  uri: {self._output()}  # a folder, or s3://bucket/prefix"],
        ]
        return "\n\n".join("\n".join(lines).rstrip() for lines in sections if lines) + "\n"

    def _source(self) -> list[str]:
        source = self.survey.source
        lines = ["source:", f"  uri: {_quoted(source.uri[0])}"]
        if is_list(source.uri[0]):
            lines += ["  lists:  # names of columns", f"    video: {_quoted(source.lists.video)}"]
            lines.append(f"    caption: {_quoted(source.lists.caption)}")
        return lines

    def _clip(self) -> Iterator[str]:
        buckets = self.shapes.buckets
        if len(buckets) == 1:
            for side in ("frames", "height", "width"):
                yield f"  {side}: {getattr(buckets[0], side)}"
        else:
            yield "  buckets:  # each sample gets the shape that crops or enlarges it least"
            for one in buckets:
                shape = f"frames: {one.frames}, height: {one.height}, width: {one.width}"
                yield f"    - {{{shape}}}"
        fps = self.shapes.fps
        yield f"  fps: {_NO_RATE if fps is None else f'{fps:g}'}"
        yield "  short: drop  # frames that do not fill a clip are left out; pad repeats the last"

    def _tokenizer(self) -> Iterator[str]:
        yield f"  - name: {'fsq' if '_fsq_' in self.model else 'kl'}  # name of the column"
        yield f"    model: {self.model}"
        yield f"    weights: {self.weights or 'null  # the bundled weights'}"
        yield "    precision: float32  # fp16 and bf16 are faster on GPUs, but change some tokens"

    def _other_models(self) -> Iterator[str]:
        yield "    # Other models for these shapes, by compression in time × height × width:"
        for name, facts in fitting_models(self.shapes):
            if name != self.model:
                size = f"{facts.temporal_factor}×{facts.spatial_factor}×{facts.spatial_factor}"
                codes = facts.codebook_size
                cells = f"{codes} codes" if codes is not None else f"{facts.channels} channels"
                weights = "null" if bundled_weights(name) else "hub"
                yield f"    #   {name}: {size}, {cells}, weights: {weights}"

    def _sound(self) -> list[str]:
        videos = self.survey.videos
        if not (heard := sum(one.facts.has_sound for one in videos)):
            return []
        have = f"{heard} of {counted(len(videos), 'video')}"
        return [f"# {have} have sound, which this setting stores:", "# audio: {codec: flac}"]

    def _tokenize(self) -> Iterator[str]:
        free = ", ".join(f"{one.name}, {format_bytes(one.free_bytes)} free" for one in self.gpus)
        yield f"  device: auto  # GPUs if there are any; on this machine: {free or 'none'}"
        yield "  decode_back_one_in: 100  # decodes one clip in 100 and measures its PSNR"

    def _output(self) -> str:
        # A pattern is named after its folder: shards/{0000..0099}.tar after shards.
        parts = re.split(r"/?[^/]*[*?\[{]", self.survey.source.uri[0])[0].rstrip("/")
        name = parts.rpartition("/")[2].partition(".")[0]
        return f"out/{re.sub(r'[^A-Za-z0-9_]+', '-', name).strip('-') or 'tokens'}"


def _quoted(value: str | None) -> str:
    """Return a value in YAML, in which `${` does not refer to another setting."""
    return json.dumps(value and value.replace("${", r"\${"), ensure_ascii=False)
