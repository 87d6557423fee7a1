"""The package as a notebook uses it. A run on Ray is in `tests/jobs`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

TINY = "vidtok_fsq_causal_488_262144_tiny"


def config(frames: int = 17, uri: str = "nowhere/*.mp4") -> pipeline.JobConfig:
    return pipeline.JobConfig.model_validate(
        {
            "source": {"uri": uri},
            "clip": {"frames": frames, "height": 128, "width": 128},
            "tokenizers": [{"name": "fsq", "model": TINY}],
            "output": {"uri": "unused"},
        }
    )


def test_a_configuration_is_read_from_a_file_or_made(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(config().public()))
    assert pipeline.load_config(str(path)) == config()
    assert pipeline.load_config(str(path), ["clip.frames=13"]) == config(frames=13)


def test_errors_are_caught_by_their_public_names(tmp_path: Path) -> None:
    with pytest.raises(pipeline.errors.ConfigError, match="cannot be read"):
        pipeline.load_config(str(tmp_path / "none.yaml"))
    with pytest.raises(pipeline.errors.PipelineError):
        pipeline.open(str(tmp_path))


def test_a_configuration_that_a_program_made_is_checked_before_the_run() -> None:
    with pytest.raises(pipeline.errors.ConfigError, match=r"clip.frames = 16: .* use 13 or 17"):
        pipeline.run(config(frames=16))
    with pytest.raises(pipeline.errors.ConfigError, match="matches no file"):
        pipeline.run(config())


def test_all_public_names_are_there_and_no_other() -> None:
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pipeline.nothing  # noqa: B018


def test_the_import_is_light() -> None:
    program = (
        "import sys, pipeline\n"
        "pipeline.JobConfig, pipeline.errors.ConfigError\n"
        "print({'torch', 'ray', 'av', 'pyarrow', 'fsspec'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
