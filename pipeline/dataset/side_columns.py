"""Columns of a clip beside its cells: sound, tracks, and numbers such as those of its shot.

The settings of a job say which of them exist, so they follow from the dataset's identity. The
decode stage fills most of them (`Clip.side`), and they travel with the batch row to the part. The
tokenize stage fills cells of sound and `token_columns`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import StringConstraints

SHOT_END: Final = "shot_end_s"
"""Column of the end of a clip's shot. It is known after the clip, so the commit fills it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideColumn:
    """A column beside the cells, with sound or a number of the clip.

    A value is null where the clip has nothing of the kind.
    """

    name: Annotated[str, StringConstraints(pattern=r"\A[a-z][a-z0-9_]*\z", max_length=256)]
    """Name of the column: lower-case letters, digits and `_`, beginning with a letter."""

    type: Literal["binary", "uint8", "int32", "int64", "float32", "float64"]
    """Type of its values in Arrow."""

    holds: Literal["sound", "track", "number", "cells"]
    """What a value is: a stream of `settings` that a file could hold, a number, a track (float32
    [num_frames, D]), or cells of sound [rows, t]. Arrays are little-endian, in C order."""

    settings: dict[str, str | int] = field(default_factory=dict)
    """Settings that made it: of sound, `codec`, `rate` in Hz, and `channels`; of cells `model`,
    `dtype`, `rows` (codebooks or latent channels) and the digest of the `weights`."""


def sound_columns(settings: Mapping[str, Any]) -> tuple[SideColumn, ...]:
    """Return the columns of a job that stores sound.

    Args:
        settings: `codec`, `rate`, `channels`, and `encoders` if there are any.
    """
    kept = {name: settings[name] for name in ("codec", "rate", "channels")}
    numbers = ("audio_source_rate", "audio_source_channels", "audio_silence")
    return (
        SideColumn(name="audio", type="binary", holds="sound", settings=kept),
        *(SideColumn(name=name, type="int32", holds="number") for name in numbers),
        *(
            SideColumn(
                name=name,
                type="binary",
                holds="cells",
                settings={key: made[key] for key in ("model", "dtype", "rows", "weights")},
            )
            for name, made in settings.get("encoders", {}).items()
        ),
    )


def side_of(identity: Mapping[str, Any]) -> tuple[SideColumn, ...]:
    """Return the side columns of a dataset from its identity, in the order of the schema."""
    sound = sound_columns(identity["audio"]) if identity.get("audio") else ()
    tracks = track_columns([track["name"] for track in identity.get("tracks", ())])
    # A dataset of embeddings has the clips of its parent, and not their columns.
    numbers: tuple[SideColumn, ...] = ()
    if "from" not in identity:
        numbers = clip_columns(identity.get("clip", {}))
        numbers += token_columns(identity.get("tokenizers", {}))
    return numbers + sound + tracks


def token_columns(tokenizers: Mapping[str, Mapping[str, Any]]) -> tuple[SideColumn, ...]:
    """Return the columns of numbers that the tokenize stage gives for each clip.

    Args:
        tokenizers: settings of the tokenizers by name, as in the dataset's `identity.tokenizers`.
    """
    columns: list[SideColumn] = []
    for name, settings in tokenizers.items():
        if settings.get("hold"):
            columns.append(SideColumn(name=f"{name}_hold", type="uint8", holds="number"))
            columns.append(SideColumn(name=f"{name}_repeats", type="float32", holds="number"))
        if settings.get("channels"):
            columns.append(SideColumn(name=f"{name}_channels", type="uint8", holds="number"))
    return tuple(columns)


def clip_columns(clip: Mapping[str, Any]) -> tuple[SideColumn, ...]:
    """Return the columns of numbers that the decoder process gives for each clip.

    Args:
        clip: the dataset's `identity.clip`, from `ClipConfig.identity`.
    """
    shots: tuple[SideColumn, ...] = ()
    if clip.get("shots") is not None:
        shots = (
            SideColumn(name="shot", type="int32", holds="number"),
            SideColumn(name="shot_start_s", type="float64", holds="number"),
            SideColumn(name=SHOT_END, type="float64", holds="number"),
        )
    several = isinstance(clip.get("fps"), list)
    fps = (SideColumn(name="fps", type="float64", holds="number"),) if several else ()
    measures = tuple(
        SideColumn(name=name, type="int64" if name == "phash" else "float32", holds="number")
        for name in clip.get("measure", ())
    )
    return fps + shots + measures


def track_columns(names: Sequence[str]) -> tuple[SideColumn, ...]:
    """Return the columns of tracks: the values, and how many frames lie beyond the track's ends."""
    return tuple(
        column
        for name in names
        for column in (
            SideColumn(name=name, type="binary", holds="track"),
            SideColumn(name=f"{name}_outside", type="int32", holds="number"),
        )
    )
