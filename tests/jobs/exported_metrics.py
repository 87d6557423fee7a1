"""What a job's metrics must say where Prometheus looks, given the summary of its run."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import ray

from pipeline.job.metrics.metrics import (
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
from tests.jobs.conftest import committed_rows

Series = tuple[str, str]
"""Name and value of the label that tells a metric's series apart, or ""."""

_EXPORTED_WITHIN_S = 60
"""Ray exports every ten seconds."""


def exported(run: str) -> Counter[Series]:
    """Return the job's series of one run, summed over processes, as one node exports them."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
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


def check_metrics(output: Path, run: str) -> None:
    """Fail unless the metrics of a run that has just ended add up with its summary.

    The driver lives on in these tests; that of a submitted job takes its gauges along. Ray drops a
    gauge that nobody has set for a while, so no other run may lie between.
    """
    summary = json.loads((output / f"reports/{run}/summary.json").read_text())
    this_run = summary["this_run"]
    units = this_run["units"]
    assert units > 1
    num_clips = committed_rows(output).num_rows
    clips = {(CLIPS.exported, stage): num_clips for stage in ("decode", "tokenize", "commit")}
    wanted = {("planned", units), ("committed", units)}
    wanted |= {(state, 0) for state in ("open", "put_back", "failed")}
    deadline = time.monotonic() + _EXPORTED_WITHIN_S
    states: set[tuple[str, float]] = set()
    series: Counter[Series] = Counter()
    while time.monotonic() < deadline and not (
        clips.items() <= series.items() and states == wanted
    ):
        time.sleep(0.5)
        series = exported(run)
        states = {(key[1], value) for key, value in series.items() if key[0] == UNITS.exported}
    assert clips.items() <= series.items(), "nothing was replayed: every stage saw each clip once"
    assert states == wanted
    assert series[ROWS_HELD.exported, ""] == 0

    assert series[COMMITS.exported, ""] == units
    for outcome in ("with_clips", "filtered", "quarantined"):
        assert series[SAMPLES.exported, outcome] == this_run[f"samples_{outcome}"]
    reasons = {key[1]: value for key, value in series.items() if key[0] == QUARANTINED.exported}
    assert reasons == this_run["reasons"]
    assert len(reasons) > 2
    assert series[ROWS.exported, "decode"] == series[ROWS.exported, "tokenize"] > 4
    for state in ("waiting", "busy"):
        assert series[WORKER_SECONDS.exported, state] > 0
    assert 0 < summary["tokenizers_waited"] < 1
