"""Text from outside is shown without characters that a terminal or a reader could be misled by."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formatting import counted, json_text, kept_of_decoded, visible

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Also lone surrogates."""

DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def is_hidden(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in DIRECTIONS


@given(ANY_TEXT)
def test_no_hidden_character_is_left_and_no_other_changes(text: str) -> None:
    shown = visible(text)
    assert not any(map(is_hidden, shown))
    assert shown == "".join(ascii(c)[1:-1] if is_hidden(c) else c for c in text)
    assert visible(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nerror: b\r\t", r"a\nerror: b\r\t"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("exe\u202e4pm", r"exe\u202e4pm"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff", r"\udcff"),
        ("日本語 – ñandú, עברית, 🎞 (é)", "日本語 – ñandú, עברית, 🎞 (é)"),
    ],
)
def test_how_it_looks(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.dictionaries(ANY_TEXT, st.lists(ANY_TEXT)))
def test_json_keeps_every_value(value: dict[str, list[str]]) -> None:
    text = json_text(value)
    assert not any(is_hidden(char) for char in text if char != "\n")
    assert json.loads(text) == value
    text.encode()
    assert "日" in json_text("日")


def test_numbers_with_their_nouns() -> None:
    assert [counted(n, "unit") for n in (0, 1, 2)] == ["0 units", "1 unit", "2 units"]
    assert counted(2, "file is", "files are") == "2 files are"
    assert kept_of_decoded(0, 0) == "0.0 s kept of 0.0 s decoded"
    assert kept_of_decoded(90, 120) == "0:01:30 kept of 0:02:00 decoded (75.0%)"
