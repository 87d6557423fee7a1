"""Settings of the tracks that lie beside videos or in lists."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Seconds, Section, Strings


class TrackConfig(Section):
    """Actions, poses or sensors, stored for each frame of a clip. Part of the fingerprint."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the column: a-z, 0-9 and _, starting with a letter."""
    sidecar: Annotated[str | None, Field(pattern=r"^([^./]+\.)*(npy|json|csv)$")] = None
    """Extension of the sidecar in lower case, such as `action.npy` for `<key>.action.npy`. The last
    part is the format: `npy`, `json` or `csv`. null: the track is in columns of a list, or of its
    `frames`."""
    key: Strings = Field(default=[])
    """Names of the values to store: keys of a JSON object, columns, or fields of a structured NPY.
    Several are concatenated. Empty: the only array of the sidecar, or everything except `times`."""
    rate: Annotated[Seconds | None, Field(le=100_000)] = None
    """Number of samples per second. Sample i is at second i / rate from the beginning of the video,
    or of the span of a list row. Give either `rate` or `times`."""
    times: str | None = None
    """Name of the key, column or field with the times of the samples, in seconds from the beginning
    of the video or of the span. They must not decrease."""
    method: Literal["nearest", "linear"] = "nearest"
    """Method for the value at the time of a frame. `nearest`: the value of the nearest sample. It
    makes no new values, so it also suits discrete actions. `linear`: interpolation between two
    samples."""
    required: bool = False
    """Whether a sample without the track is quarantined. If not, the track of its clips is null."""

    @property
    def form(self) -> str:
        """Format of the sidecar: `npy`, `json` or `csv`."""
        return (self.sidecar or "").rpartition(".")[2]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a list that hold the track."""
        return [*self.key, *filter(None, [self.times])]
