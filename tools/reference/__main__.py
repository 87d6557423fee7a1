"""Write the generated pages into `docs/reference`, and the schemas into `docs/schema`."""

import subprocess
import sys
from pathlib import Path

from pipeline.commands.settings import Kind, schema_of
from pipeline.formatting import json_text
from tools.reference.outcomes import metric_page, outcome_page
from tools.reference.settings import setting_pages

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "reference"


def pages() -> dict[str, str]:
    """Return the text of each generated page by the name of its file."""
    return {
        **setting_pages(),
        "commands.md": command_page(),
        "metrics.md": metric_page(),
        "outcomes.md": outcome_page(),
    }


def command_page() -> str:
    """Return the page of the command line, as typer writes it."""
    typer = [sys.executable, "-m", "typer", "pipeline.commands", "utils", "docs"]
    named = ["--name", "vidtok-pipeline", "--title", "Commands"]
    done = subprocess.run([*typer, *named], check=True, capture_output=True, text=True)
    return done.stdout.rstrip() + "\n"


def main() -> None:
    """Write all schemas and pages."""
    for kind in Kind:
        (DOCS / f"schema/{kind}.json").write_text(json_text(schema_of(kind)) + "\n")
        print(f"written    docs/schema/{kind}.json")
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
        print(f"written    docs/reference/{name}")


if __name__ == "__main__":
    main()
