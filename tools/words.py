"""Find words and phrases of `tools/words.txt`: `python tools/words.py [FILE …]`.

Without arguments it reads all tracked Python, Markdown, TOML and YAML files. Each finding is one
line, `file:line: "phrase": use … instead`. The exit code is 1 if there is one.
"""

import re
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).with_name("words.txt")
BETWEEN = r"[\s#]+"
"""What separates two words: white space, and the sign of a continued comment."""


def forbidden() -> list[tuple[re.Pattern[str], str]]:
    """Return each pattern with what to write instead."""
    lines = [line.partition(" -> ") for line in LIST.read_text(encoding="utf-8").splitlines()]
    return [
        (re.compile(rf"\b(?:{pattern.replace(' ', BETWEEN)})\b", re.IGNORECASE), instead)
        for pattern, arrow, instead in lines
        if arrow and not pattern.startswith("#")
    ]


def tracked() -> list[str]:
    """Return the names of the tracked files that contain prose."""
    patterns = ["*.py", "*.md", "*.toml", "*.yaml", ":!tests/test_words.py"]
    listing = subprocess.run(
        ["git", "ls-files", *patterns], capture_output=True, text=True, check=True
    )
    return listing.stdout.split()


def main(names: list[str]) -> int:
    """Print the findings and return the exit code."""
    patterns = forbidden()
    # Almost no file has one: a single pass that looks for all of them takes a fifth of the time.
    some = re.compile("|".join(pattern.pattern for pattern, _ in patterns), re.IGNORECASE)
    found = []
    for name in names or tracked():
        text = Path(name).read_text(encoding="utf-8")
        if not some.search(text):
            continue
        for pattern, instead in patterns:
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append((name, line, " ".join(match[0].replace("#", " ").split()), instead))
    for name, line, phrase, instead in sorted(found):
        print(f'{name}:{line}: "{phrase}": use {instead} instead')
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
