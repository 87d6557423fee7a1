import pytest

from pipeline.config.loading import load
from pipeline.errors import ConfigError
from pipeline.training.clip_config import ClipSourceConfig

SHAPE = ["uri=corpus", "frames=5", "height=8", "width=16"]


def test_a_source_is_read_from_the_command_line():
    config = load(None, [*SHAPE, "fps=[3, 8]", "min_scale=1", "exclude=a/*"], ClipSourceConfig)
    assert (config.uri, config.exclude, config.fps) == (["corpus"], ["a/*"], [3.0, 8.0])
    assert config.decoded == (8, 16)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("short_side=7", "short_side = 7: must be at least 8, the clip's shorter side"),
        ("segment_frames=4", "segment_frames = 4: must be at least 5, the clip's frames"),
        ("min_scale=0", "min_scale = 0: should be greater than 0"),
        ("fps=[]", "fps = []: list should have at least 1 item"),
        ("fps=[0]", "fps.0 = 0: should be greater than 0"),
        ("fps=3", "fps = 3: should be a valid list"),
        ("keep=3", "keep: no such key; did you mean keep_mb?"),
    ],
)
def test_wrong_values_are_one_line(override: str, says: str):
    with pytest.raises(ConfigError) as caught:
        load(None, [*SHAPE, override], ClipSourceConfig)
    assert str(caught.value).startswith(f"command line: {says}")
