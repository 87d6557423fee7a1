"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

from pipeline.config.job import JobConfig
from pipeline.job.config_checks import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


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
    config = load_config(str(ROOT / "examples/demo.yaml"))
    assert isinstance(config, JobConfig)
    assert config.output.uri == "out/demo", "the Makefile looks there"


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_its_columns_are_those_of_a_part() -> None:
    from pipeline.dataset.schema import TokenizerColumn, clip_schema

    table = README.partition("One row per clip:")[2].partition("No Ray")[0]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    columns = [
        TokenizerColumn(
            name="fsq",
            kind="fsq",
            dtype="uint32",
            axes=("t", "h", "w"),
            model="m",
            fingerprint="0",
            codebook_size=1 << 18,
        ),
        TokenizerColumn(
            name="kl",
            kind="kl",
            dtype="float16",
            axes=("c", "t", "h", "w"),
            model="m",
            fingerprint="0",
        ),
    ]
    assert named == set(clip_schema(columns).names)
