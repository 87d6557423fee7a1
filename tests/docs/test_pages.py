"""The blocks of README, tutorial and how-to pages run, in the order of each page.

A block of YAML or Python whose first line is the comment `# NAME` is the content of that file.
Other Python blocks share the names of their page. A block of shell must succeed. A block of text is
the output of the block before it: `…` stands for any text, and numbers may differ. Blocks without a
language are not run. The tests make a few things smaller, see `SMALLER`.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from pipeline.commands import main
from pipeline.config.job import JobConfig
from pipeline.job.config_checks import load_config, load_embed_config
from tests.pipeline.in_process import without_ray
from tests.pipeline.s3 import S3Server
from tests.pipeline.tokenized import tokenized

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
VIDEOS = sorted((ROOT / "tests/data/videos").glob("*.mp4"))
SMALLER = {
    r"-m pipeline tokenize \S+": r"\g<0> decode.actors=1 tokenize.actors=1",
    r"moving_shapes.py": r"\g<0> --videos 17 --frames 34",  # two units, and more than a minute
    r"--steps \d+": "--steps 2",
    r'"tokenizers\.0\.batch=32"': (  # of README: its corpus and its models are large
        r'\g<0>, "source.uri=videos", "output.uri=out/tokens", "clip.height=32", "clip.width=32",'
        ' "tokenizers=[{name: fsq, model: vidtok_fsq_causal_488_262144_tiny}]",'
        ' "decode.actors=1", "tokenize.actors=1"'
    ),
    r"num_workers=2\)": "num_workers=0)",  # Ray Train in one process; tests of reading have two
}
"""What the tests put into commands and files."""
STATE = re.compile(r"<<|^(export|cd|for|if|while|\w+=)", re.MULTILINE)
"""What one line of a script leaves to the next, so that both belong to one shell."""
VERB = re.compile(r"python -m pipeline ([^|<>;&$`\n]+)")
HOW_TO = [
    path
    for path in sorted((ROOT / "docs/how-to").glob("*.md"))
    if path.stem not in ("index", "installing")  # the test of the wheel installs
]
PAGES = [ROOT / "README.md", *HOW_TO]
TUTORIAL = ROOT / "docs/tutorial/index.md"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's dataset at a smaller size, made without Ray."""
    output = tmp_path_factory.mktemp("demo") / "demo"
    values = load_config(str(ROOT / "pipeline/demo/job.yaml")).model_dump(mode="json")
    values["source"]["uri"] = [str(path) for path in VIDEOS]
    values["clip"] |= {"height": 32, "width": 32}
    values["output"]["uri"] = str(output)
    tokenized(JobConfig.model_validate(values))
    return output


@pytest.fixture
def folder(demo: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader: `videos`, `out/demo`, and access to a bucket `corpus`."""
    shutil.copytree(demo, tmp_path / "out/demo")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "videos").mkdir()
    for path in VIDEOS:
        shutil.copy(path, tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def smaller(text: str) -> str:
    """Return a command or a file as the tests run it."""
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text)
    return text


class Blocks:
    """Evaluates the blocks of one page, and remembers the output of the last one."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}
        self.output = ""
        self.files: list[str] = []
        self.count = 0

    def _written(self, text: str) -> str | None:
        """Write a block that is a file; return its name."""
        named = re.match(r"# ([\w./-]+\.(?:yaml|py))\n", text)
        if named is None:
            return None
        Path(named[1]).write_text(smaller(text))
        self.files.append(named[1])
        return named[1]

    def yaml(self, example: Example) -> None:
        name = self._written(example.parsed)
        assert name, "a YAML block begins with the name of its file"
        embeds = re.search(r"^from:", example.parsed, re.MULTILINE)
        (load_embed_config if embeds else load_config)(name)
        self.count += 1

    def python(self, example: Example) -> None:
        if self._written(example.parsed):
            return
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            exec(compile(smaller(example.parsed), example.path, "exec"), self.names)
        self.output = heard.getvalue()
        self.count += 1

    def bash(self, example: Example) -> None:
        script = smaller(example.parsed.replace("\\\n", " "))
        lines = [script] if STATE.search(script) else script.strip().splitlines()
        self.output = "".join(
            self._verb(found[1]) if (found := VERB.fullmatch(line)) else self._shell(line)
            for line in lines
        )
        self.count += 1

    def _verb(self, arguments: str) -> str:
        """Run a verb of ours in this process: to import what it needs takes longer than it does."""
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            code = main(shlex.split(arguments))
        assert code == 0, f"{arguments}\n{heard.getvalue()}"
        return heard.getvalue()

    def _shell(self, script: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def text(self, example: Example) -> None:
        shown = ".*".join(map(re.escape, example.parsed.strip().split("…")))
        numbers = re.sub(r"\d[\d:]*(\\\.\d+)?", r"\\d[\\d.:e-]*", shown)
        assert re.search(numbers, self.output, re.DOTALL), self.output
        self.count += 1


def run_page(page: Path) -> Blocks:
    """Run a page's blocks in this folder."""
    blocks = Blocks()
    kinds = {"yaml": blocks.yaml, "python": blocks.python, "bash": blocks.bash, "text": blocks.text}
    sybil = Sybil(parsers=[CodeBlockParser(kind, run) for kind, run in kinds.items()])
    for example in sybil.parse(page).examples():
        example.evaluate()
    return blocks


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs do their work in this process. Only the tutorial's job runs on Ray."""
    without_ray(monkeypatch)


@pytest.mark.timeout(400)
def test_the_tutorial_runs(folder: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    shutil.rmtree(folder / "videos")
    assert run_page(TUTORIAL).count > 0


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
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
