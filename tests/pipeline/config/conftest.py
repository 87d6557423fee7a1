"""The file of a job."""

from pathlib import Path

import pytest

from tests.pipeline.config.jobs import GOOD


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return str(path)
