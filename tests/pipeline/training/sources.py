"""Sources for the tests of training data."""

from typing import Any

from pipeline.training.clip_config import ClipSourceConfig
from tests.assets import VIDEOS


def source(**changes: Any) -> ClipSourceConfig:
    """A small source: the bundled videos at a size that costs nothing."""
    how = {
        "uri": [str(VIDEOS)],
        "frames": 5,
        "height": 24,
        "width": 24,
        "segment_frames": 60,
        "windows_per_segment": 2,
        "shuffle_segments": 3,
    }
    return ClipSourceConfig(**(how | changes))
