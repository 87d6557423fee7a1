"""The blocks of README, tutorial and how-to pages run, in the order of each page.

A block of YAML or Python whose first line is the comment `# NAME` is the content of that file.
Other Python blocks share the names of their page. A block of shell must succeed. A block of text is
the output of the block before it: `…` stands for any text, and numbers may differ. Blocks without a
language are not run. The tests make a few things smaller, see `SMALLER`.
"""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from pipeline.commands import main
from pipeline.job.config_checks import load_config, load_embed_config

ROOT = Path(__file__).parents[2]
SMALLER = {
    r"-m pipeline tokenize \S+": r"\g<0> decode.actors=1 tokenize.actors=1",
    r"moving_shapes.py": r"\g<0> --videos 17 --frames 34",  # two units, and more than a minute
    r"token_transformer.py \S+": r"\g<0> --width 32 --depth 1 --samples 1",
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
TORCHRUN = re.compile(r"torchrun (.+)")
WITH_RANKS = [page for page in PAGES if TORCHRUN.search(page.read_text())]


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
            self._verb(found[1]) if (found := VERB.fullmatch(line)) else self.shell(line)
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

    def shell(self, script: str) -> str:
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


def run_page(page: Path, blocks: Blocks | None = None) -> Blocks:
    """Run a page's blocks in this folder."""
    blocks = blocks or Blocks()
    kinds = {"yaml": blocks.yaml, "python": blocks.python, "bash": blocks.bash, "text": blocks.text}
    sybil = Sybil(parsers=[CodeBlockParser(kind, run) for kind, run in kinds.items()])
    for example in sybil.parse(page).examples():
        example.evaluate()
    return blocks
