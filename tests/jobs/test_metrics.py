"""A job's metrics leave the cluster where Prometheus looks, and add up with its summary."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import pyarrow as pa
import ray

from pipeline.job.metrics import (
    CLIPS,
    COMMITS,
    METRICS,
    QUARANTINED,
    ROWS,
    ROWS_HELD,
    SAMPLES,
    UNITS,
    WORKER_SECONDS,
)
from tests.jobs.conftest import job, tokenized

Series = tuple[str, str]
"""Name and value of the label that tells a metric's series apart, or ""."""

_EXPORTED_WITHIN_S = 40
"""Every process tells its node's agent every ten seconds."""


def exported(run: str) -> Counter[Series]:
    """Return the job's series of one run, summed over processes, as one node exports them."""
    [node] = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    names = {metric.exported: metric for metric in METRICS}
    found: Counter[Series] = Counter()
    for line in urlopen(url, timeout=10).read().decode().splitlines():
        name, _, rest = line.partition("{")
        if name not in names:
            continue
        labels, _, value = rest.rpartition("} ")
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if pairs["run"] == run:
            label = names[name].labels[-1:]
            found[name, pairs[label[0]] if label else ""] += float(value)  # type: ignore[assignment]
    return found


def test_metrics_add_up_with_the_summary(undisturbed: tuple[list[str], pa.Table]) -> None:
    tars, rows = undisturbed
    [report] = (Path(tars[0]).parents[1] / "out/reports").glob("*/summary.json")
    summary = json.loads(report.read_text())
    clips = {(CLIPS.exported, stage): rows.num_rows for stage in ("decode", "tokenize", "commit")}
    deadline = time.monotonic() + _EXPORTED_WITHIN_S
    series = exported(summary["run"])
    while not clips.items() <= series.items() and time.monotonic() < deadline:
        time.sleep(1)
        series = exported(summary["run"])
    assert clips.items() <= series.items(), "nothing was replayed: every stage saw each clip once"

    this_run = summary["this_run"]
    assert series[COMMITS.exported, ""] == this_run["units"] == 4
    outcomes = ("with_clips", "filtered", "quarantined")
    for outcome in outcomes:
        assert series[SAMPLES.exported, outcome] == this_run[f"samples_{outcome}"]
    reasons = {key[1]: value for key, value in series.items() if key[0] == QUARANTINED.exported}
    assert reasons == this_run["reasons"]
    assert series[ROWS.exported, "decode"] == series[ROWS.exported, "tokenize"] > 4
    for state in ("waiting", "busy"):
        assert series[WORKER_SECONDS.exported, state] > 0
    assert 0 < summary["tokenizers_waited"] < 1


def test_gauges_stand_at_the_end_of_the_run(
    undisturbed: tuple[list[str], pa.Table], tmp_path: Path
) -> None:
    """The driver of these tests lives on; that of a submitted job takes its gauges along.

    A run of its own: Ray drops a gauge that nobody has set for a while.
    """
    tars, _ = undisturbed
    run = tokenized(job(tars[:2], tmp_path / "out")).run
    wanted = {("planned", 2), ("committed", 2), ("open", 0), ("put_back", 0), ("failed", 0)}
    deadline = time.monotonic() + _EXPORTED_WITHIN_S
    states: set[tuple[str, float]] = set()
    while states != wanted and time.monotonic() < deadline:
        series = exported(run)
        states = {(key[1], value) for key, value in series.items() if key[0] == UNITS.exported}
        time.sleep(0 if states == wanted else 1)
    assert states == wanted
    assert series[ROWS_HELD.exported, ""] == 0
