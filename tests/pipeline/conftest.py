import os
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server

# Ray reads its token once per process, from the home folder: after a test with another home no
# cluster would let this process in. Clusters of tests are this machine's own, and short-lived.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# Examples touch disks and share two cores with others: how long one takes says nothing.
settings.register_profile("pipeline", deadline=None, max_examples=60)
settings.load_profile("pipeline")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store, once on a local disk and once on S3."""
    if request.param == "local":
        return Store(str(request.getfixturevalue("tmp_path") / "corpus"))
    server: S3Server = request.getfixturevalue("s3")
    return Store(f"{server.bucket()}/corpus", server.storage_options)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """An empty store on a local disk."""
    return Store(str(tmp_path / "corpus"))
