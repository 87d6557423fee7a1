"""Metrics through Ray: the agent of each node exports them for Prometheus.

They use Ray's metric classes, so one scrape of a node returns the job's metrics and Ray's.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.job.metrics.metrics import Metric


class RayRecorder:
    """A `Recorder` for the processes of one run.

    Args:
        run: value of the label `run`.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._made: dict[str, Counter | Gauge] = {}

    def __reduce__(self) -> tuple[type["RayRecorder"], tuple[str]]:
        return RayRecorder, (self._run,)  # each process registers the metrics that it uses

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        """Increase a counter; 0 is allowed."""
        if value > 0:  # Ray raises an error at 0
            self._metric(Counter, metric).inc(value, {"run": self._run, **labels})

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._metric(Gauge, metric).set(value, {"run": self._run, **labels})

    def _metric(self, kind: type[Any], metric: Metric) -> Any:
        if metric.name not in self._made:
            made = kind(metric.name, metric.meaning, tag_keys=("run", *metric.labels))
            self._made[metric.name] = made
        return self._made[metric.name]
