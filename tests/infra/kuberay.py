"""The fields of KubeRay 1.6 and 1.7 that the manifests use, with their types.

Other fields can exist. Look them up in the operator's custom resource definitions, then add them.
"""

from collections.abc import Iterator
from typing import Any

RESOURCES = {"requests": {"*": str}, "limits": {"*": str}}
SECRET = {"valueFrom": {"secretKeyRef": {"name": str, "key": str}}}
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "ports": [{"name": str, "containerPort": int}],
    "env": [{"name": str, "value": str, **SECRET}],
    "resources": RESOURCES,
    "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
POD = {
    "serviceAccountName": str,
    "automountServiceAccountToken": bool,
    "restartPolicy": str,
    "nodeSelector": {"*": str},
    "tolerations": [{"key": str, "operator": str, "effect": str}],
    "terminationGracePeriodSeconds": int,
    "securityContext": {
        "runAsNonRoot": bool,
        "runAsUser": int,
        "fsGroup": int,
        "seccompProfile": {"type": str},
    },
    "containers": [CONTAINER],
    "volumes": [{"name": str, "configMap": {"name": str}}],
}
TEMPLATE = {"metadata": {"annotations": {"*": str}}, "spec": POD}
WORKER_GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": {"*": str},
    "template": TEMPLATE,
}

SPECS: dict[str, dict[str, Any]] = {
    "RayCluster": {
        "rayVersion": str,
        "authOptions": {"mode": str},
        "gcsFaultToleranceOptions": {"redisAddress": str, "redisPassword": SECRET},
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": {"version": str, "idleTimeoutSeconds": int, "resources": RESOURCES},
        "headGroupSpec": {"rayStartParams": {"*": str}, "template": TEMPLATE},
        "workerGroupSpecs": [WORKER_GROUP],
    },
    "RayJob": {
        "clusterSelector": {"*": str},
        "entrypoint": str,
        "entrypointNumCpus": int,
        "submitterConfig": {"backoffLimit": int},
    },
    "CronJob": {
        "schedule": str,
        "timeZone": str,
        "concurrencyPolicy": str,
        "startingDeadlineSeconds": int,
        "successfulJobsHistoryLimit": int,
        "failedJobsHistoryLimit": int,
        "jobTemplate": {"spec": {"backoffLimit": int, "template": TEMPLATE}},
    },
}


def faults(value: Any, shape: Any, where: str = "spec") -> Iterator[str]:
    """Yield what does not fit: unknown fields and wrong types."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is not a mapping"
            return
        for key, item in value.items():
            if key in shape or "*" in shape:
                yield from faults(item, shape.get(key, shape.get("*")), f"{where}.{key}")
            else:
                yield f"{where}.{key}: unknown"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is not a list"
            return
        for n, item in enumerate(value):
            yield from faults(item, shape[0], f"{where}[{n}]")
    elif type(value) is not shape:
        yield f"{where}: {value!r} is not of type {shape.__name__}"
