"""The corpus job's metrics: what they are called and what they mean.

    workers ─► clips, rows, worker seconds, PSNR ┐
    driver  ─► commits, quarantine, units ───────┴─► Recorder ─► Ray ─► /metrics of each node

Workers count what they do, replays included; the driver counts what the log holds, which is what
adds up with the summary. Ray exports a counter `name` as `ray_<name>_total` and a gauge as
`ray_<name>`; every series also carries `run`, the name of the run's folder in `reports/`.
"""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

DECODE, TOKENIZE, COMMIT = "decode", "tokenize", "commit"
"""Values of the label `stage`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, with the labels that tell its series apart."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


CLIPS: Final = Metric(
    "vidtok_clips",
    "counter",
    ("stage",),
    "clips that left a stage: decode and tokenize with their replays, commit as in the log",
)


ROWS: Final = Metric(
    "vidtok_rows",
    "counter",
    ("stage",),
    "batch rows that decode made and that tokenize is done with, replays included",
)


WORKER_SECONDS: Final = Metric(
    "vidtok_worker_seconds",
    "counter",
    ("stage", "state"),
    "time of the actors: waiting for input, busy, or blocked while handing a row over",
)


COMMITS: Final = Metric(
    "vidtok_commits", "counter", (), "units that this driver's log records committed"
)


SAMPLES: Final = Metric(
    "vidtok_samples",
    "counter",
    ("outcome",),
    "samples of committed units: with_clips, filtered or quarantined",
)


QUARANTINED: Final = Metric(
    "vidtok_quarantined",
    "counter",
    ("reason",),
    "samples and clips in the quarantine of committed units",
)


UNITS: Final = Metric(
    "vidtok_units",
    "gauge",
    ("state",),
    "units: planned; committed; open (some rows are made); put_back (will be tried again); failed",
)


ROWS_HELD: Final = Metric(
    "vidtok_rows_held",
    "gauge",
    (),
    "tokenized batch rows in the object store that are not committed yet",
)


SECONDS_LEFT: Final = Metric(
    "vidtok_seconds_left", "gauge", (), "estimate for this pass, from its first committed unit on"
)


PSNR_CLIPS: Final = Metric(
    "vidtok_psnr_clips",
    "counter",
    ("tokenizer",),
    "clips that were decoded back right after they were tokenized, replays included",
)


PSNR_DB: Final = Metric(
    "vidtok_psnr_db",
    "counter",
    ("tokenizer",),
    "sum of their PSNR; divided by the clips, the mean, over any time and any processes",
)


METRICS: Final = (
    CLIPS,
    ROWS,
    PSNR_CLIPS,
    PSNR_DB,
    WORKER_SECONDS,
    COMMITS,
    SAMPLES,
    QUARANTINED,
    UNITS,
    ROWS_HELD,
    SECONDS_LEFT,
)


class Recorder(Protocol):
    """Where values go; a test brings its own. Travels to the workers, so it pickles."""

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        """Raise a counter; by 0 is allowed."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Put a gauge to a value."""
