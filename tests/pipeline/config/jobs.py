"""A job's configuration that is right, and the lines about one that is wrong."""

import pytest

from pipeline.errors import ConfigError
from pipeline.job.config_checks import load_config

GOOD = """
source: {uri: "videos/*.mp4"}
clip: {frames: 17, height: 128, width: 128, fps: 8}
tokenizers:
  - {name: fsq, model: vidtok_fsq_causal_488_262144_tiny}
  - {name: kl, model: vidtok_kl_causal_488_8chn_tiny, batch: 4}
output: {uri: out}
"""


def faults(path: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return [line.replace(path, "job.yaml") for line in str(caught.value).splitlines()]
