"""One small dataset with real tokens, for all tests that only read it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipeline.storage.store import Store
from tests.pipeline.tokenized import hikers


@pytest.fixture(scope="session")
def hiker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hikers")


@pytest.fixture(scope="session")
def corpus(hiker_folder: Path) -> Store:
    """The tokenized hiker, and a quarantined file; tests must not write to it."""
    return hikers(hiker_folder)


@pytest.fixture
def without_source(corpus: Store, hiker_folder: Path) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the hiker's video does not exist."""

    @contextmanager
    def missing() -> Iterator[None]:
        video = hiker_folder / "in/hiker.mp4"
        moved = video.rename(hiker_folder / "elsewhere.mp4")
        try:
            yield
        finally:
            moved.rename(video)

    return missing
