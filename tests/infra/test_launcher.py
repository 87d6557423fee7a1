"""`infra/cluster.yaml` is valid for Ray's launcher."""

import json
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = yaml.safe_load((ROOT / "infra/cluster.yaml").read_text())
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def test_it_fits_ray_s_schema() -> None:
    jsonschema.validate(CLUSTER, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**CLUSTER, "max_worker": 2}, SCHEMA)


def test_only_gpu_machines_are_on_spot() -> None:
    types = CLUSTER["available_node_types"]
    markets = {
        name: kind["node_config"].get("InstanceMarketOptions") for name, kind in types.items()
    }
    assert markets == {"head": None, "decode": None, "tokenize": {"MarketType": "spot"}}
    assert types[CLUSTER["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["tokenize"]["resources"] == {"CPU": 0, "GPU": 1}
    most = sum(kind.get("max_workers", 0) for kind in types.values())
    assert most == CLUSTER["max_workers"]


def test_it_installs_what_the_tests_run_with() -> None:
    [install] = [c for c in CLUSTER["setup_commands"] if "pip install" in c]
    assert "--constraint ~/vidtok-pipeline/constraints.txt" in install
    [target] = CLUSTER["file_mounts"]
    assert target == "/home/ubuntu/vidtok-pipeline"
    assert f"{target}[s3,hub]" in install


def test_every_node_exports_metrics() -> None:
    for where in ("head", "worker"):
        start = CLUSTER[f"{where}_start_ray_commands"][-1]
        assert "ray start" in start
        assert "--metrics-export-port=8080" in start
