"""The job's metrics: their names and meanings.

    workers ─► clips, rows, worker seconds, PSNR ┐
    driver  ─► commits, quarantine, units ───────┴─► Recorder ─► Ray ─► /metrics of each node

Workers count what they do, replays included. The driver counts what the log holds, which adds up
with the summary. Ray exports a counter `name` as `ray_<name>_total` and a gauge as `ray_<name>`.
Every series also has the label `run`, the name of the run's folder in `reports/`.
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
        """Return its name in Prometheus."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


CLIPS: Final = Metric(
    "vidtok_clips",
    "counter",
    ("stage",),
    "clips that left a stage; decode and tokenize include repeated work, commit counts the log",
)


ROWS: Final = Metric(
    "vidtok_rows",
    "counter",
    ("stage",),
    "batch rows that left decode and tokenize, including repeated work",
)


WORKER_SECONDS: Final = Metric(
    "vidtok_worker_seconds",
    "counter",
    ("stage", "state"),
    "seconds of the actors: waiting for input, busy, or blocked while handing a row over",
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
    "units: planned; committed; open (some rows arrived); put_back (will be retried); failed",
)


ROWS_HELD: Final = Metric(
    "vidtok_rows_held",
    "gauge",
    (),
    "tokenized batch rows in the object store that are not committed yet",
)


SECONDS_LEFT: Final = Metric(
    "vidtok_seconds_left",
    "gauge",
    (),
    "estimated seconds left in this pass, after its first unit is done",
)


PSNR_CLIPS: Final = Metric(
    "vidtok_psnr_clips",
    "counter",
    ("tokenizer",),
    "clips that were decoded back right after tokenization, including repeated work",
)


PSNR_DB: Final = Metric(
    "vidtok_psnr_db",
    "counter",
    ("tokenizer",),
    "sum of the PSNR of these clips in dB; divided by their number, it is the mean",
)


METRICS: Final = tuple(value for value in vars().values() if isinstance(value, Metric))
"""All metrics of this module."""


class Recorder(Protocol):
    """Receives values; a test may bring its own. It is sent to the workers, so it must pickle."""

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        """Increase a counter; 0 is allowed."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
