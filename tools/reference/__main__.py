"""Write the generated pages into `docs/reference`."""

import subprocess
import sys
from pathlib import Path

from tools.reference.outcomes import metric_page, outcome_page
from tools.reference.settings import setting_pages

FOLDER = Path(__file__).parents[2] / "docs/reference"


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
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
        print(f"written    docs/reference/{name}")


if __name__ == "__main__":
    main()
