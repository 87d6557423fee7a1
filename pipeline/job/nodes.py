"""The nodes of the cluster: their names in messages, and what they have."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_ANSWER_S: Final = 60.0
"""Seconds in which nodes answer a question."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive."""

    id: str
    """Ray's id of the node."""
    name: str
    """Name in messages."""
    cpus: float
    gpus: float


def alive_nodes() -> list[Node]:
    """Return the nodes of the cluster that are alive."""
    return [
        Node(
            node["NodeID"],
            _name(node["NodeManagerAddress"], node["NodeID"]),
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def ask_other_nodes(question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function on each node that can take work, except this one.

    Returns:
        name of a node → result. A node that raises an error or is too slow is left out.
    """
    own = ray.get_runtime_context().get_node_id()
    ask = ray.remote(_call)
    asked: dict[Any, str] = {}
    for node in alive_nodes():
        if node.id != own and (node.cpus or node.gpus):
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            options = ask.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[options.remote(question, *arguments)] = node.name
    answers: dict[str, Any] = {}
    if asked:
        for future in ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                answers[asked[future]] = ray.get(future)
    return answers


def _call(question: Callable[..., Any], *arguments: Any) -> Any:
    return question(*arguments)


def free_resources() -> str:
    """Say what no actor and no task uses."""
    free = ray.available_resources()
    return f"CPUs: {free.get('CPU', 0.0):g}, GPUs: {free.get('GPU', 0.0):g}"


def this_node() -> str:
    """Return the name of the node of this process; empty without Ray."""
    if not ray.is_initialized():
        return ""
    return _name(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())


def _name(address: str, node_id: str) -> str:
    return f"{address} ({node_id[:8]})"
