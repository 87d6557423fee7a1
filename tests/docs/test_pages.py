"""The blocks of README, tutorial and how-to pages run; see `blocks.py`."""

import shutil
import tarfile
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, WITH_RANKS, run_page
from tests.docs.conftest import VIDEOS
from tests.pipeline.in_process import without_ray
from tests.pipeline.s3 import S3Server

pytestmark = pytest.mark.ray

TUTORIAL = ROOT / "docs/tutorial/index.md"


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs do their work in this process. Only the tutorial's job runs on Ray."""
    without_ray(monkeypatch)


@pytest.fixture(autouse=True)
def _bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Access to a bucket `corpus`."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)


@pytest.mark.timeout(400)
def test_the_tutorial_runs(folder: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    shutil.rmtree(folder / "videos")
    assert run_page(TUTORIAL).count > 0


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in WITH_RANKS],
    ids=lambda page: page.stem,
)
def test_the_blocks_run(page: Path, folder: Path, s3: S3Server) -> None:
    if page.stem == "s3":
        upload(s3, folder)
    assert run_page(page).count > 0


def upload(s3: S3Server, folder: Path) -> None:
    """Put two shards into the bucket that the pages name."""
    bucket = s3.bucket("corpus")
    for path in VIDEOS[:2]:
        tar = folder / f"{path.stem}.tar"
        with tarfile.open(tar, "w", dereference=True) as file:
            file.add(path, path.name)
        s3.put(f"{bucket}/shards/{tar.name}", tar.read_bytes())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```bash\nfalse\n```\n", AssertionError),
        ("```bash\necho one\n```\n\n```text\ntwo\n```\n", AssertionError),
        ("```bash\necho 3 clips\n```\n\n```text\n4 units\n```\n", AssertionError),
        ("```python\nraise KeyError\n```\n", KeyError),
        ("```yaml\n# job.yaml\nclip: {frames: x}\n```\n", ValueError),
    ],
)
def test_a_wrong_block_is_found(
    text: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(error):
        run_page(tmp_path / "page.md")
