"""The manifests are valid, and consistent with each other, the package and the job they run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.job.config_checks import load_config
from pipeline.job.resources import allocate
from tests.infra import kuberay

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / name).read_text()))


ALL = [
    (name, document)
    for name in ("raycluster.yaml", "rayjob.yaml", "cronjob.yaml")
    for document in documents(name)
]
[CLUSTER] = [document for _, document in ALL if document["kind"] == "RayCluster"]
[RAY_JOB] = [document for _, document in ALL if document["kind"] == "RayJob"]
[CRON_JOB] = [document for _, document in ALL if document["kind"] == "CronJob"]
[CONFIG_MAP] = [document for _, document in ALL if document["kind"] == "ConfigMap"]
HEAD = CLUSTER["spec"]["headGroupSpec"]
DECODE, TOKENIZE = CLUSTER["spec"]["workerGroupSpecs"]
SUBMIT_POD = CRON_JOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]
PODS = [*(group["template"]["spec"] for group in (HEAD, DECODE, TOKENIZE)), SUBMIT_POD]
CONTAINERS = [container for pod in PODS for container in pod["containers"]]


@pytest.mark.parametrize("path", sorted(INFRA.rglob("*.yaml")), ids=lambda path: path.name)
def test_it_is_yaml_without_a_key_twice(path: Path) -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            assert len(set(keys)) == len(keys), f"{path.name}: line {node.start_mark.line + 1}"
            return super().construct_mapping(node, deep)

    assert all(document for document in yaml.load_all(path.read_text(), Strict))


@pytest.mark.parametrize(("name", "document"), ALL, ids=lambda value: str(value)[:20])
def test_fields_are_those_of_kubernetes_and_kuberay(name: str, document: dict[str, Any]) -> None:
    assert document["metadata"]["namespace"] == "vidtok"
    assert document["metadata"].keys() <= {"name", "generateName", "namespace", "annotations"}
    if shape := kuberay.SPECS.get(document["kind"]):
        assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert list(kuberay.faults(document["spec"], shape)) == []
    versions = {"RayCluster": "ray.io/v1", "RayJob": "ray.io/v1", "CronJob": "batch/v1"}
    assert document["apiVersion"] == versions.get(document["kind"], "v1")


def test_a_wrong_field_is_found() -> None:
    shape = kuberay.SPECS["RayJob"]
    assert list(kuberay.faults({"entryPoint": "x"}, shape)) == ["spec.entryPoint: unknown"]
    assert list(kuberay.faults({"entrypointNumCpus": "1"}, shape))
    assert list(kuberay.faults({"clusterSelector": ["x"]}, shape))


def test_one_image_of_one_version() -> None:
    [image] = {container["image"] for container in CONTAINERS}
    name, _, tag = image.rpartition(":")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert (name.rpartition("/")[2], tag) == ("vidtok-pipeline", version[1])
    ray = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert ray
    assert CLUSTER["spec"]["rayVersion"] == ray[1], "the image has the Ray of constraints.txt"


def test_pods_are_limited_to_their_requests_and_do_not_run_as_root() -> None:
    for pod in PODS:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000, "the user of the Dockerfile"
    for container in CONTAINERS:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_worker_drains_within_its_grace_period() -> None:
    from ray._private import ray_constants

    for group in (DECODE, TOKENIZE):
        pod = group["template"]["spec"]
        [variable] = pod["containers"][0]["env"]
        assert hasattr(ray_constants, variable["name"]), "this Ray knows the variable"
        assert 10 < float(variable["value"]) < pod["terminationGracePeriodSeconds"]


def test_only_gpus_are_on_spot_and_nothing_runs_on_the_head() -> None:
    kinds = [
        group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"]
        for group in (HEAD, DECODE, TOKENIZE)
    ]
    assert kinds == ["on-demand", "on-demand", "spot"]
    assert HEAD["rayStartParams"]["num-cpus"] == TOKENIZE["rayStartParams"]["num-cpus"] == "0"
    tolerated = {t["key"] for t in TOKENIZE["template"]["spec"]["tolerations"]}
    assert "nvidia.com/gpu" in tolerated
    for group in (DECODE, TOKENIZE):
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]


def test_secrets_and_configuration_are_available_where_they_are_used() -> None:
    name = CLUSTER["metadata"]["name"]
    assert RAY_JOB["spec"]["clusterSelector"] == {"ray.io/cluster": name}
    address = next(x for x in SUBMIT_POD["containers"][0]["command"] if x.startswith("--address="))
    namespace = CLUSTER["metadata"]["namespace"]
    assert address == f"--address=http://{name}-head-svc.{namespace}.svc:8265"
    token = SUBMIT_POD["containers"][0]["env"][1]["valueFrom"]["secretKeyRef"]
    assert CLUSTER["spec"]["authOptions"]["mode"] == "token"
    assert token == {"name": name, "key": "auth_token"}, "KubeRay names it after the cluster"
    for group in (HEAD, DECODE):  # where a driver may run
        pod = group["template"]["spec"]
        [volume], [mount] = pod["volumes"], pod["containers"][0]["volumeMounts"]
        assert volume["configMap"]["name"] == CONFIG_MAP["metadata"]["name"]
        assert mount["mountPath"] == "/etc/vidtok"


def test_both_ways_in_run_the_same_command() -> None:
    command = SUBMIT_POD["containers"][0]["command"]
    entrypoint = " ".join(command[command.index("--") + 1 :])
    assert entrypoint == RAY_JOB["spec"]["entrypoint"]
    assert f"--entrypoint-num-cpus={RAY_JOB['spec']['entrypointNumCpus']}" in command
    script = entrypoint.split()[1]
    assert (ROOT / Path(script).relative_to("/app")).exists()
    assert Path(entrypoint.split()[2]).name in CONFIG_MAP["data"]


def test_the_job_asks_for_no_more_than_the_groups_may_grow_to(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(CONFIG_MAP["data"]["job.yaml"])
    config = load_config(str(path))
    empty = allocate(config, cpus=0, gpus=0, units=10_000, may_grow=True)
    assert (empty.decode_cpus, empty.tokenize_gpus, empty.device) == (1.0, 1.0, "cuda")
    decode, tokenize = (
        group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for group in (DECODE, TOKENIZE)
    )
    driver = RAY_JOB["spec"]["entrypointNumCpus"]
    assert empty.cpus + driver <= int(decode["cpu"]) * DECODE["maxReplicas"]
    assert empty.tokenize_actors <= int(tokenize["nvidia.com/gpu"]) * TOKENIZE["maxReplicas"]
    memory_gib = config.decode.memory_mb / 1024 * int(decode["cpu"])
    assert memory_gib < int(decode["memory"].removesuffix("Gi")), "all its decoders at their limit"
