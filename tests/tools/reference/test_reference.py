"""The generated reference says what the code says, and its examples are allowed values."""

from typing import Any

import pytest
from pydantic import ValidationError
from typer.main import get_command

from pipeline.commands import app
from pipeline.commands.settings import Kind, settings_class
from pipeline.quarantine import ACTIONS, DROPPED, FILTERED, REASONS
from tools.reference.__main__ import FOLDER, pages
from tools.reference.settings import EXAMPLES, Setting, example_of, settings_of

SETTINGS = [
    (str(kind), setting) for kind in Kind for setting in settings_of(kind) if setting.values
]


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return pages()


def test_the_pages_are_those_of_the_code(written: dict[str, str]) -> None:
    stale = [name for name, text in written.items() if (FOLDER / name).read_text() != text]
    assert not stale, "run: python -m tools.reference"
    assert {path.name for path in FOLDER.glob("*-settings.md")} <= set(written)


@pytest.mark.parametrize(("kind", "setting"), SETTINGS, ids=lambda x: getattr(x, "path", x))
def test_an_example_is_an_allowed_value(kind: str, setting: Setting) -> None:
    value: Any = example_of(kind, setting.path)
    for name in reversed(setting.path.split(".")):
        value = {name.removesuffix("[]"): [value] if name.endswith("[]") else value}
    with pytest.raises(ValidationError) as refused:
        settings_class(Kind(kind)).model_validate({**value, "no_such_key": 0})
    path = [part.removesuffix("[]") for part in setting.path.split(".")]
    found = [
        error
        for error in refused.value.errors()
        if error["type"] != "missing"
        and [part for part in error["loc"] if isinstance(part, str)][: len(path)] == path
    ]
    assert not found


def test_a_wrong_value_would_be_found() -> None:
    with pytest.raises(ValidationError) as refused:
        settings_class(Kind.JOB).model_validate({"clip": {"frames": "17"}})
    assert ("clip", "frames") in [error["loc"] for error in refused.value.errors()]


def test_every_example_is_of_a_setting() -> None:
    for kind, examples in EXAMPLES.items():
        assert set(examples) <= {setting.path for setting in settings_of(kind)}


def test_every_setting_has_a_description_and_shows_its_values(written: dict[str, str]) -> None:
    assert all(setting.text.endswith(".") for _, setting in SETTINGS)
    page = written["job-settings.md"]
    assert '`drop`, `pad`; default `"drop"`' in page
    assert "integer > 0 or `null`; default `null`" in page
    assert page.index("## `source`") < page.index("## Top level") < page.index("### `slice`")


def test_every_reason_has_an_action(written: dict[str, str]) -> None:
    words = {**REASONS, **FILTERED, **DROPPED}
    assert set(ACTIONS) == set(words)
    assert all(f"| `{word}` | " in written["outcomes.md"] for word in words)


def test_every_verb_is_on_the_page(written: dict[str, str]) -> None:
    verbs = vars(get_command(app))["commands"]
    assert all(f"## `vidtok-pipeline {verb}`" in written["commands.md"] for verb in verbs)
