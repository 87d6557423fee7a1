"""The JSON Schemas agree with what loads: the examples, the short forms, and common mistakes."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from pipeline.commands.settings import Kind, schema_of, settings_class

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
MODELINE = "# yaml-language-server: $schema="
JOB = """
source: {uri: videos}
clip: {frames: 17, height: 64, width: 64}
tokenizers: [{name: fsq, model: vidtok_fsq_causal_488_262144_tiny}]
output: {uri: out}
"""


@cache
def validator(kind: Kind) -> Draft202012Validator:
    return Draft202012Validator(schema_of(kind))


def accepts(kind: Kind, values: Any) -> bool:
    """Return whether the schema accepts settings; the loader must say the same."""
    by_schema: bool = validator(kind).is_valid(values)
    try:
        settings_class(kind).model_validate(values)
    except ValidationError:
        assert not by_schema, "the schema accepts what does not load"
        return False
    assert by_schema, "the schema refuses what loads"
    return True


def job_with(path: Sequence[str | int], value: Any) -> Any:
    values = yaml.safe_load(JOB)
    *sections, name = path
    inner = values
    for part in sections:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    inner[name] = value
    return values


@pytest.mark.parametrize("kind", Kind)
def test_the_files_in_the_documentation_are_what_the_verb_prints(kind: Kind) -> None:
    stored = (ROOT / f"docs/schema/{kind}.json").read_text()
    assert json.loads(stored) == schema_of(kind), "run `make docs`"


@pytest.mark.parametrize("kind", Kind)
def test_a_schema_is_one_and_describes_every_setting(kind: Kind) -> None:
    schema = schema_of(kind)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    for name, section in schema["$defs"].items():
        for field, rule in section.get("properties", {}).items():
            assert "description" in rule or "$ref" in rule, f"{name}.{field}"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_names_its_schema_and_is_valid_by_it(path: Path) -> None:
    first, _, text = path.read_text().partition("\n")
    assert first.startswith(MODELINE)
    schema = (path.parent / first.removeprefix(MODELINE)).resolve()
    assert schema.parent == ROOT / "docs/schema"
    assert accepts(Kind(schema.stem), yaml.safe_load(text))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["clip", "fps"], 8),
        (["clip", "fps"], [8, 2.5, None]),
        (["source", "uri"], ["a", "b"]),
        (["source", "exclude"], "*.tmp"),
        (["source", "storage_options"], {"key": "k", "client_kwargs": {"endpoint_url": "e"}}),
        (["clip", "offset_s"], 1),
        (["clip", "shots"], {"by": "content", "threshold": 2}),
        (["tokenizers", 0, "model"], "diffusers:AutoencoderKLWan"),
        (["max_quarantine_rate"], 0),
        (["slice"], "0/4"),
    ],
    ids=str,
)
def test_what_loads_is_valid(path: list[str | int], value: Any) -> None:
    assert accepts(Kind.JOB, job_with(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["clip", "frame"], 17),
        (["clips"], {}),
        (["clip", "frames"], "17"),
        (["clip", "frames"], 0),
        (["clip", "frames"], 17.5),
        (["clip", "fps"], 2000),
        (["clip", "fps"], []),
        (["clip", "short"], "cut"),
        (["clip", "offset_s"], -1),
        (["clip", "shots"], {"by": "magic"}),
        (["clip", "shots"], {"threshold": 0}),
        (["clip", "measure"], "motion"),
        (["tokenizers"], []),
        (["tokenizers", 0, "precision"], "bfloat16"),
        (["tokenizers", 0, "name"], "Fsq"),
        (["tokenizers", 0, "batch"], True),
        (["tokenizers", 0, "bits"], 9),
        (["tokenize", "gpus_per_actor"], 2),
        (["output"], {}),
        (["output", "uri"], ""),
        (["source", "uri"], 5),
        (["source", "files_per_unit"], 0),
        (["max_quarantine_rate"], 1.5),
        (["slice"], "1 of 4"),
        (["decode"], None),
    ],
    ids=str,
)
def test_a_common_mistake_is_refused(path: list[str | int], value: Any) -> None:
    assert accepts(Kind.JOB, yaml.safe_load(JOB))
    assert not accepts(Kind.JOB, job_with(path, value))


def test_a_wrong_name_of_a_model_is_marked() -> None:
    assert not validator(Kind.JOB).is_valid(job_with(["tokenizers", 0, "model"], "vidtok_fsq"))


def test_a_value_can_be_an_interpolation() -> None:
    for path in (["clip", "frames"], ["slice"], ["clip", "short"], ["tokenizers", 0, "model"]):
        assert validator(Kind.JOB).is_valid(job_with(path, "${oc.env:VALUE}"))
        assert not validator(Kind.JOB).is_valid(job_with(path, "$VALUE"))


@pytest.mark.parametrize(
    "tokenizers",
    [
        "vidtok_fsq_causal_488_262144_tiny",
        ["vidtok_fsq_causal_488_262144_tiny"],
        {"name": "x", "model": "vidtok_fsq_causal_488_262144_tiny"},
        [{"name": "x", "model": "diffusers:X"}, "vidtok_kl_causal_488_8chn_tiny"],
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["videos", ["a", "b"], {"uri": "videos"}], ids=str)
def test_short_forms_of_an_evaluation_are_valid(source: Any, tokenizers: Any) -> None:
    values = {"source": source, "tokenizers": tokenizers, "output": "out"}
    assert accepts(Kind.EVALUATE, values)
    assert not accepts(Kind.EVALUATE, {**values, "tokenizers": 5})
    assert not accepts(Kind.EVALUATE, {**values, "metric": ["psnr"]})


def test_a_parent_can_be_its_uri_alone() -> None:
    embedder = {"name": "t5", "model": "transformers:T5EncoderModel", "weights": "w"}
    values = {"embedders": [embedder], "output": {"uri": "o"}}
    assert accepts(Kind.EMBED, {**values, "from": "out/demo"})
    assert accepts(Kind.EMBED, {**values, "from": {"uri": "out/demo", "version": 3}})
    assert not accepts(Kind.EMBED, {**values, "parent": "out/demo"})
