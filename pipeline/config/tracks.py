"""Settings of the tracks that lie beside videos or in lists."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Seconds, Section, Strings


class TrackConfig(Section):
    """Actions, poses or sensors, stored at each clip's frames; in the fingerprint."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the column: a-z, 0-9 and _, starting with a letter."""
    sidecar: Annotated[str | None, Field(pattern=r"^([^./]+\.)*(npy|json|csv)$")] = None
    """Extension of the sidecar in lower case, such as `action.npy` for `<key>.action.npy`. Its end
    is the format: `npy`, `json` or `csv`. null: columns of a list, or of its `frames`."""
    key: Strings = Field(default=[])
    """Names of what is taken: keys of the JSON object, columns, fields of a structured NPY. Several
    are joined. Empty: the one array of a sidecar, or all but `times`."""
    rate: Annotated[Seconds | None, Field(le=100_000)] = None
    """Number of samples per second. Sample i is at second i / rate from the beginning of the video,
    or of the span of a list row. Give either `rate` or `times`."""
    times: str | None = None
    """Name of the key, column or field with the seconds of the samples, from the beginning of the
    video or of the span. They must not decrease."""
    method: Literal["nearest", "linear"] = "nearest"
    """Value at the time of a frame: of the nearest sample, or interpolated between two. `nearest`
    makes no new values, so it also suits discrete actions."""
    required: bool = False
    """Whether a sample without the track is quarantined. Otherwise its clips have null."""

    @property
    def form(self) -> str:
        """Format of the sidecar: `npy`, `json` or `csv`."""
        return (self.sidecar or "").rpartition(".")[2]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a list that hold the track."""
        return [*self.key, *filter(None, [self.times])]
