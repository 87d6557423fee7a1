"""Dashboard, alerts and documentation name exactly the metrics that the job has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.job.metrics.metrics import METRICS
from pipeline.quarantine import REASONS
from tests.infra import promql

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"

EXPORTED = {metric.exported: metric for metric in METRICS}
VALUES = {
    ("vidtok_clips", "stage"): {"decode", "tokenize", "commit"},
    ("vidtok_rows", "stage"): {"decode", "tokenize"},
    ("vidtok_worker_seconds", "stage"): {"decode", "tokenize"},
    ("vidtok_worker_seconds", "state"): {"waiting", "busy", "blocked"},
    ("vidtok_units", "state"): {"planned", "committed", "open", "put_back", "failed"},
    ("vidtok_samples", "outcome"): {"with_clips", "filtered", "quarantined"},
    ("vidtok_quarantined", "reason"): set(REASONS),
}
DASHBOARD = json.loads((INFRA / "grafana/dashboard.json").read_text())
ALERTS = yaml.safe_load((INFRA / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], re.sub(r", *\w+\)$", ")", variable["query"])
    for rule in RULES:
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("where", "text"), list(expressions()))
def test_an_expression_names_existing_series(where: str, text: str) -> None:
    expression = promql.read(text)
    assert expression.selectors
    for selector in expression.selectors:
        metric = EXPORTED[selector.metric]
        labels = {"run", *metric.labels}
        assert selector.matchers.keys() <= labels, where
        for label, value in selector.matchers.items():
            if label != "run":
                assert set(value.split("|")) <= VALUES[metric.name, label], where
        # A counter is read by its rate, except in a difference of two counters.
        is_value = metric.kind == "gauge" or metric.name in ("vidtok_rows", "vidtok_clips")
        assert selector.is_range or is_value, f"{where}: {selector.metric} without a rate"
        assert metric.kind == "counter" or not selector.is_range, f"{where}: a gauge's rate"
    assert expression.groupings <= {"run", *(x for m in METRICS for x in m.labels)}, where


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sum(ray_x", "not closed"),
        ("sum(ray_x})", "closes nothing"),
        ("summ(ray_x)", "not a known function"),
        ('ray_x{stage:"decode"}', "not a matcher"),
        ("sum by run (ray_x)", "without parentheses"),
        ("rate > 5", "of nothing"),
        ("ray_x ? 1", "not PromQL"),
    ],
)
def test_errors_are_found(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        promql.read(text)


def test_every_metric_is_shown_or_alerted_on() -> None:
    used = {s.metric for _, text in expressions() for s in promql.read(text).selectors}
    assert used == set(EXPORTED)


def test_panels_do_not_overlap_and_have_a_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${source}"
        legends = [target["legendFormat"] for target in panel["targets"]]
        for target, legend in zip(panel["targets"], legends, strict=True):
            named = set(re.findall(r"{{(\w+)}}", legend))
            assert named == promql.read(target["expr"]).groupings, panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_with_which_run(rule: dict) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    told = set(re.findall(r"{{ \$labels\.(\w+) }}", rule["annotations"]["summary"]))
    assert "run" in told
    assert promql.read(rule["expr"]).groupings == told, "the labels are left for the text"
    text = " ".join(rule["annotations"].values())
    assert set(re.findall(r"ray_\w+", text)) <= set(EXPORTED)


def test_prometheus_finds_nodes_and_rules() -> None:
    config = yaml.safe_load((INFRA / "prometheus.yaml").read_text())
    assert all((INFRA / name).exists() for name in config["rule_files"])
    kubernetes, nodes = config["scrape_configs"]
    [role] = kubernetes["kubernetes_sd_configs"]
    cluster = next(
        doc
        for doc in yaml.safe_load_all((INFRA / "raycluster.yaml").read_text())
        if doc["kind"] == "RayCluster"
    )
    assert role["namespaces"]["names"] == [cluster["metadata"]["namespace"]]
    kept = {rule["regex"] for rule in kubernetes["relabel_configs"] if rule.get("action") == "keep"}
    assert kept == {"head|worker", "metrics"}
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        ports = group["template"]["spec"]["containers"][0]["ports"]
        assert {"name": "metrics", "containerPort": 8080} in ports
    # Ray defines where it stores the list of its nodes.
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    [files] = nodes["file_sd_configs"]
    assert [Path(name).name for name in files["files"]] == [PROMETHEUS_SERVICE_DISCOVERY_FILE]


def test_the_documentation_lists_the_metrics() -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| `(ray_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert listed == {name: (m.kind, set(m.labels)) for name, m in EXPORTED.items()}
    text = (ROOT / "docs/reference/monitoring.md").read_text()
    alerts = re.findall(r"^\| `(Vidtok\w+)` \|", text, re.MULTILINE)
    assert alerts == [rule["alert"] for rule in RULES]
