"""Why a sample or a clip is not in the dataset: stage, reason, detail.

A sample is quarantined if it failed, and filtered if the clip rule takes no clip of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import PipelineError, one_line, redacted
from pipeline.records import name_of

Stage = Literal["read", "decode", "tokenize", "filter"]
"""Where a sample or clip was lost. `filter` is the clip rule, which is not a failure."""


REASONS: dict[str, str] = {
    # read
    "tar_truncated": "the tar ends in the middle of a member or without its end mark",
    "tar_unreadable": "the tar cannot be read",
    "tar_past_limit": "the tar needs more memory or time than the limits of tars allow",
    "file_unreadable": "the file cannot be read",
    "no_video": "the sample has no video",
    "several_videos": "the sample has more than one video, or more than one image",
    "duplicate_key": "another sample of the same unit has this key",
    "too_large": "the video is larger than source.max_video_mb",
    "no_track": "a track that is `required` is missing or cannot be read",
    "list_unreadable": "the list is damaged; the unit's remaining rows are lost",
    "bad_row": "the row of the list names no video, or has an invalid span",
    "given_up": "the sample alone made its unit fail in every attempt",
    # decode
    "not_a_video": "no container format was recognised",
    "no_video_stream": "the container holds no video stream",
    "no_frames": "no frame could be decoded",
    "truncated": "the file ends before data that its structure lists",
    "corrupt": "the decoder reported damaged data",
    "unsupported": "codec, pixel format or geometry is not supported, or the video is encrypted",
    "decode_error": "the decoder failed",
    "decode_timeout": "the decoder made no progress within decode.timeout_s",
    "decode_memory": "the decoder needed more memory than decode.memory_mb",
    "decode_crash": "the decoder process died",
    # tokenize
    "tokenizer_error": "the tokenizer failed on this clip alone",
    "non_finite": "the latent holds NaN or infinity",
}
"""Every reason of the quarantine, with its meaning."""


TOO_SHORT, NO_SOUND, CLIP_FILTER = "too_short", "no_sound", "clip_filter"

FILTERED: dict[str, str] = {
    TOO_SHORT: "the video is too short for a clip of the shortest bucket, see clip.short",
    NO_SOUND: "the video has no sound that can be decoded, see audio.required",
    CLIP_FILTER: "clip.filter drops every clip of the video",
}
"""Every reason for which a sound sample has no clips, with its meaning. No word is in `REASONS`."""


TAIL, MAX_PER_SAMPLE, SHOT_SHORT = "tail", "max_per_sample", "shot_short"

DROPPED: dict[str, str] = {
    TAIL: "the end of a video is too short for another clip, see clip.short",
    SHOT_SHORT: "a shot is too short, see clip.shots",
    MAX_PER_SAMPLE: "the video has more clips than clip.max_per_sample",
}
"""Every rule by which the decoder process drops a clip, with its meaning. Other clips are dropped
for a reason of `FILTERED`, or by a rule of `clip.filter`, which is its own text."""


ACTIONS: dict[str, str] = {
    "tar_truncated": "copy the tar again, then `retry`",
    "tar_unreadable": "check with `tar -t` that it is a tar, then copy or replace it",
    "tar_past_limit": "split the tar into shards of at most a few GB",
    "file_unreadable": "check permissions and that the file is still there, then `retry`",
    "no_video": "check the names in the sample: a video needs a known extension",
    "several_videos": "keep one video per key",
    "duplicate_key": "rename one of the samples",
    "too_large": "raise `source.max_video_mb`, or split the video",
    "no_track": "add the sidecar, or set `tracks[].required: false`",
    "list_unreadable": "write the list again",
    "bad_row": "correct the row that the detail names",
    "given_up": "look for the sample in the log of the worker; it may need more `decode.memory_mb`",
    "not_a_video": "remove the file, or copy it again",
    "no_video_stream": "remove the file from the source",
    "no_frames": "copy the file again, or remove it",
    "truncated": "copy the file again, then `retry`; `decode.damage: keep` takes what is there",
    "corrupt": "copy the file again, then `retry`; `decode.damage: keep` takes what can be decoded",
    "unsupported": "convert the file to H.264 or another codec that `ffmpeg -codecs` lists",
    "decode_error": "play the file with ffmpeg to see the fault, then convert it",
    "decode_timeout": "raise `decode.timeout_s` if the file is sound but slow",
    "decode_memory": "raise `decode.memory_mb` if the file is sound but large",
    "decode_crash": "report the file as a bug of the decoder library that it crashes",
    "tokenizer_error": "read the detail, and remove the cause; then `retry`",
    "non_finite": "use `precision: float32` for this tokenizer",
    "too_short": "set `clip.short: pad`, or add a shorter bucket",
    "no_sound": "set `audio.required: false` to keep the video without sound",
    "clip_filter": "loosen `clip.filter` if too many are lost",
    "tail": "set `clip.short: pad` to keep it",
    "max_per_sample": "raise `clip.max_per_sample` if too many are lost",
    "shot_short": "lower `clip.shots.min_s`, or set `clip.short: pad`",
}
"""What can be done about each reason of `REASONS`, `FILTERED` and `DROPPED`."""


GIVEN_UP = "given_up"
"""Reason of a sample that has none of its own; see `pipeline.stages.decode`."""


class QuarantineError(PipelineError):
    """A sample or clip cannot become tokens.

    Args:
        stage: where it failed.
        reason: one of `pipeline.quarantine.REASONS`; summaries count by it.
        detail: message of the library that failed.
        attempts: number of times that it was tried.
    """

    def __init__(self, stage: Stage, reason: str, detail: str, *, attempts: int = 1) -> None:
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage: Stage = stage
        self.reason = reason
        self.detail = detail
        self.attempts = attempts


@contextmanager
def giving_up(stage: Stage, *, active: bool) -> Iterator[None]:
    """Raise any error of a `with` block as the `QuarantineError` of a sample that is given up.

    Lack of memory concerns the process, not the sample.
    """
    try:
        yield
    except (QuarantineError, MemoryError):
        raise
    except Exception as error:
        if not active:
            raise
        raise QuarantineError(stage, GIVEN_UP, one_line(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Why one sample (`clip_index` is None) or one clip is not a row; also of filtered samples."""

    unit: str
    key: str
    clip_index: int | None
    stage: Stage
    reason: str
    detail: str
    attempts: int = 1

    @property
    def name(self) -> str:
        """Return `unit/key` of a sample, or the id of a clip."""
        return name_of(self.unit, self.key, self.clip_index)

    @property
    def is_filtered(self) -> bool:
        """Return whether the sample is sound and the clip rule takes no clip of it."""
        return self.stage == "filter"

    @classmethod
    def too_short(
        cls, *, unit: str, key: str, frames: int, seconds: float, shortest: int
    ) -> "Quarantined":
        """Return the record of a filtered sample.

        Args:
            unit: its work unit.
            key: its key.
            frames: number of its frames at the rate of the clips.
            seconds: its duration.
            shortest: number of frames of a clip of the shortest bucket.
        """
        detail = (
            f"frames: {frames} in {seconds:.2f} s; a clip of the shortest bucket has {shortest}"
        )
        return cls.filtered(unit=unit, key=key, reason=TOO_SHORT, detail=detail)

    @classmethod
    def filtered(cls, *, unit: str, key: str, reason: str, detail: str) -> "Quarantined":
        """Return the record of a sound sample without clips; the reason is one of `FILTERED`."""
        return cls(
            unit=unit, key=key, clip_index=None, stage="filter", reason=reason, detail=detail
        )

    def __str__(self) -> str:
        """Return `unit/key/clip_index: stage: reason: detail`."""
        return f"{self.name}: {self.stage}: {self.reason}: {self.detail}"

    @classmethod
    def of(
        cls, error: QuarantineError, *, unit: str, key: str, clip_index: int | None = None
    ) -> "Quarantined":
        """Return the record of an error."""
        return cls(
            unit=unit,
            key=key,
            clip_index=clip_index,
            stage=error.stage,
            reason=error.reason,
            detail=redacted(error.detail),
            attempts=error.attempts,
        )
