"""The Dockerfile is consistent with the package. It is read, not built."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "infra/Dockerfile").read_text()
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"^#.*\n|\\\n", "", TEXT, flags=re.MULTILINE).splitlines()
    if line.strip()
]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def test_its_base_is_pinned_and_can_be_changed() -> None:
    assert of("FROM") == ["${PYTHON_IMAGE}"]
    [base] = [rest for rest in of("ARG") if rest.startswith("PYTHON_IMAGE=")]
    name, tag = base.removeprefix("PYTHON_IMAGE=").split(":")
    assert name == "python"
    version = re.match(r"(\d+)\.(\d+)\.\d+-", tag)
    assert version, f"{tag} is not a full version"
    needed = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert needed
    assert int(version[2]) >= int(needed[1])
    assert "latest" not in TEXT


def test_what_it_installs_is_constrained() -> None:
    [install] = [rest for rest in of("RUN") if "pip install" in rest]
    assert "--constraint constraints.txt" in install
    assert "--no-cache-dir" in install
    extras = re.search(r"'\.\[(.+)\]'", install)
    assert extras
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(
        re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras[1].split(",")
    )


def test_it_does_not_run_as_root() -> None:
    assert of("USER") == ["1000"]
    names = [instruction for instruction, _ in INSTRUCTIONS]
    assert names.index("USER") > max(n for n, name in enumerate(names) if name == "RUN")


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = {source for rest in of("COPY") for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    ignore = (ROOT / "infra/Dockerfile.dockerignore").read_text().splitlines()
    assert ignore[0] == "*"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    # The package's metadata names these files, so pip needs them to build it.
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= copied
