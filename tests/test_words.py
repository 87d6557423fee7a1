"""The word list finds words and phrases, and names what to write instead."""

from pathlib import Path

import pytest

from tools import words


def test_a_phrase_is_found_across_lines_and_in_a_comment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "module.py"
    path.write_text("x = 1\n\n# A job that stops goes\n# on later, and is anew.\n")
    assert words.main([str(path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f'{path}:3: "goes on": use continues, resumes instead'
    assert second == f'{path}:4: "anew": use again instead'


@pytest.mark.parametrize("text", ["There is no file.\n", "It is no longer there.\n", "amends\n"])
def test_other_words_are_not_found(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    assert words.main([str(path)]) == 0


def test_no_pattern_is_listed_twice_and_each_has_a_replacement() -> None:
    patterns = [pattern.pattern for pattern, instead in words.forbidden() if instead]
    assert len(patterns) == len(set(patterns)) == len(words.forbidden()) > 20
