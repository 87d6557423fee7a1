"""Pages of what a run can end with, and of the metrics that it exports."""

from collections.abc import Mapping
from typing import Final

from pipeline.errors import EXIT_CODES
from pipeline.job.metrics import metrics
from pipeline.quarantine import ACTIONS, DROPPED, FILTERED, REASONS

QUARANTINE: Final = """\
If a sample or a clip fails, the job continues. The tables in `quarantine/` record one of these
reasons, and the message of the library that failed. To try the samples of a reason again, call
`python -m pipeline retry` and run the job. If you change `clip`, `audio`, `tracks` or a tokenizer's
`precision`, use another output, because they are part of the fingerprint."""

SERIES: Final = """\
Each Ray node exports these series. [Monitoring](monitoring.md) describes how to read them.
Every series also has the label `run`."""


def outcome_page() -> str:
    """Return the page of exit codes, quarantine reasons, and rules that drop clips."""
    lines = [
        "# Exit codes, quarantine reasons, dropped clips",
        "",
        "## Exit codes",
        "",
        "| exit code | meaning |",
        "| --- | --- |",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
        "",
        "## Quarantine reasons",
        "",
        QUARANTINE,
        "",
        *_reasons(REASONS),
        "",
        "## Samples without clips",
        "",
        "These samples are not broken, but the settings leave them without a clip.",
        "",
        *_reasons(FILTERED),
        "",
        "## Dropped clips",
        "",
        "`status` and the summary count the clips that these rules drop.",
        "",
        *_reasons(DROPPED),
    ]
    return "\n".join(lines) + "\n"


def metric_page() -> str:
    """Return the page of the job's metrics."""
    found = [value for value in vars(metrics).values() if isinstance(value, metrics.Metric)]
    lines = [
        "# Metrics",
        "",
        SERIES,
        "",
        "| metric | kind | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for one in found:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.exported}` | {one.kind} | {labels} | {one.meaning} |")
    return "\n".join(lines) + "\n"


def _reasons(meanings: Mapping[str, str]) -> list[str]:
    return [
        "| reason | meaning | what to do |",
        "| --- | --- | --- |",
        *(f"| `{word}` | {meaning} | {ACTIONS[word]} |" for word, meaning in meanings.items()),
    ]
