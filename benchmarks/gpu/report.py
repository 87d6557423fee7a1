"""Rows of a run: printed as they are measured, and as Markdown tables at its end."""

import json
import sys
import time
from pathlib import Path
from typing import Any


class Report:
    """Collects rows and appends each to a file of JSON lines, so that a killed run keeps its rows.

    Args:
        path: file of JSON lines, which is emptied.
        minutes: time after which no new measurement begins.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self.rows: list[dict[str, Any]] = []
        self._path = path
        self._started = time.monotonic()
        self._until = self._started + 60 * minutes

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() > self._until

    def add(self, section: str, **values: Any) -> None:
        """Add a row to a section. The first row of a section names the columns of its table."""
        row = {"section": section, **values}
        self.rows.append(row)
        with self._path.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        said = "  ".join(f"{name}={_shown(value)}" for name, value in values.items())
        at = time.monotonic() - self._started
        print(f"{at:6.1f} s  {section}: {said}", file=sys.stderr, flush=True)

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(row.get("result") == "failed" for row in self.rows)

    def markdown(self) -> str:
        """Return one table per section."""
        lines = []
        for section in dict.fromkeys(row["section"] for row in self.rows):
            rows = [row for row in self.rows if row["section"] == section]
            names = list(dict.fromkeys(name for row in rows for name in row if name != "section"))
            lines += [f"## {section}", "", f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
            lines += [
                f"| {' | '.join(_shown(row.get(name, '')) for name in names)} |" for row in rows
            ]
            lines.append("")
        return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
