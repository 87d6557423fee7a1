"""The README's examples work, and links and names in the documentation exist."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from pipeline.commands import app
from pipeline.config.job import JobConfig
from pipeline.job.config_checks import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/explanation/architecture.md").read_text()
PAGES = sorted(
    path
    for place in ("*.md", "docs/**/*.md", "benchmarks/*.md", "tests/data/*.md", ".github/**/*.md")
    for path in ROOT.glob(place)
)
TEXTS = [page.read_text() for page in PAGES]
LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text())
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_its_configuration_is_one(tmp_path: Path) -> None:
    [text] = blocks("yaml")
    path = tmp_path / "job.yaml"
    path.write_text(text)
    config = load_config(str(path), ["tokenizers.0.batch=32"])
    assert config.row_clips == 32
    assert config.source.uri == ["s3://corpus/shards/{000000..000999}.tar"]


def test_the_demo_is_a_configuration() -> None:
    config = load_config(str(ROOT / "pipeline/demo/job.yaml"))
    assert isinstance(config, JobConfig)
    assert config.output.uri == "out/demo", "the Makefile looks there"


@pytest.mark.parametrize(("page", "link"), LINKS, ids=str)
def test_a_link_leads_to_a_file(page: Path, link: str) -> None:
    assert (page.parent / link).exists()


def test_its_columns_are_those_of_a_part() -> None:
    from pipeline.dataset.schema import TokenizerColumn, clip_schema
    from pipeline.dataset.side_columns import clip_columns

    table = README.partition("Each row is one clip:")[2].partition("No Ray")[0]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    columns = [
        TokenizerColumn(
            name="fsq",
            kind="indices",
            dtype="uint32",
            axes=("t", "h", "w"),
            model="m",
            fingerprint="0",
            codebook_size=1 << 18,
        ),
        TokenizerColumn(
            name="kl",
            kind="latents",
            dtype="float16",
            axes=("c", "t", "h", "w"),
            model="m",
            fingerprint="0",
        ),
    ]
    side = clip_columns(load_config(str(ROOT / "pipeline/demo/job.yaml")).clip.identity())
    assert named == set(clip_schema(columns, side).names)


def test_its_commands_name_verbs_and_files() -> None:
    known = vars(typer.main.get_command(app))["commands"]
    commands = [line.partition(" #")[0].split() for line in README.splitlines()]
    verbs = [words[3] for words in commands if words[:3] == ["python", "-m", "pipeline"]]
    assert len(verbs) >= 5
    assert set(verbs) <= set(known)
    [submitted] = [words for words in commands if words[:3] == ["ray", "job", "submit"]]
    assert submitted[3:5] == ["--working-dir", "."], "as tests/jobs/test_submit.py submits"
    named = re.findall(r"(?<![\w/.])(?:jobs|infra|examples|pipeline/demo)/[\w/]+\.\w+", README)
    assert {"infra/runtime_env.yaml", "pipeline/demo/job.yaml"} <= set(named)
    assert all((ROOT / name).is_file() for name in named)


COMMANDS = [
    (str(page.relative_to(ROOT)), command)
    for page, text in zip(PAGES, TEXTS, strict=True)
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if language in ("", "bash")
    for command in re.findall(
        r"^(?:python -m pipeline|vidtok-pipeline) (\w[^\n>]*)",
        block.replace("\\\n", ""),
        re.MULTILINE,
    )
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_verb_takes_the_options_and_arguments_that_a_page_shows(page: str, command: str) -> None:
    verb, *arguments = shlex.split(command, comments=True)
    known = vars(typer.main.get_command(app))["commands"]
    known[verb].make_context(verb, arguments)


def test_no_page_shows_a_digest_of_somebody_s_paths() -> None:
    """A unit's id ends in a digest of its URI, which differs between machines."""
    assert not re.search(r"\b(?:bikes|hiker_tiny|vidtok_example)-[0-9a-f]{12}\b", "".join(TEXTS))


def test_the_table_of_extras_has_those_that_can_be_installed() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/how-to/installing.md").read_text(), re.MULTILINE
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(rows) == sorted(project["optional-dependencies"])


def names(path: Path) -> set[str]:
    """Return what a module defines, as `name` or `Class.name`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef)
            }
    return found


@pytest.mark.parametrize(
    ("module", "name"),
    re.findall(r"`(?!jobs/)([a-z_]+(?:/[a-z_]+)+)(?:\.([A-Za-z_.]+))?`", ARCHITECTURE),
)
def test_names_in_the_architecture_exist(module: str, name: str) -> None:
    path = ROOT / "pipeline" / f"{module}.py"
    assert path.exists()
    assert not name or name in names(path)


def test_the_layers_in_the_architecture_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [layers] = [c["layers"] for c in contracts["contracts"] if c["type"] == "layers"]
    rows = re.findall(r"^\| \d+ \| (.*) \|$", ARCHITECTURE, re.MULTILINE)
    assert [re.findall(r"`(\w+)/?`", row) for row in rows] == [x.split(" | ") for x in layers]
