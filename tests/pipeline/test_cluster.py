"""A Ray that cannot be joined is one line, at once."""

import socket

import pytest
import ray

from pipeline.cluster import Cluster, connect
from pipeline.errors import ConfigError, RayNotStarted


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:PORT", "Connection refused"),
        ("ray://127.0.0.1:PORT", "Connection refused"),
        ("nonsense", "Invalid address format"),
        ("http://127.0.0.1:PORT", "Set RAY_ADDRESS to the GCS address instead"),
    ],
)
def test_a_ray_that_cannot_be_joined(
    address: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address.replace("PORT", str(closed_port()))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=says) as caught, connect():
        pass
    text = str(caught.value)
    assert text.startswith(f"Ray at {address} (--ray or RAY_ADDRESS) cannot be reached: ")
    assert text.endswith("; --ray local starts one on this machine")
    assert "\n" not in text


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(**_: object) -> None:
        raise Exception("The current node timed out\nduring startup.")  # what Ray raises

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_AUTH_TOKEN", "RAY_idle_worker_killing_time_threshold_ms"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    says = "did not start on this machine: Exception: The current node timed out during startup.;"
    with pytest.raises(RayNotStarted, match=says) as caught, connect():
        pass
    assert "\n" not in str(caught.value)


def test_a_cluster_says_which_it_is() -> None:
    assert str(Cluster(8, 1, is_own=False, address="10.0.0.1:6379", nodes=2)) == (
        "joined at 10.0.0.1:6379 · nodes: 2 · CPUs: 8 · GPUs: 1"
    )
    assert str(Cluster(2, 0, is_own=True)) == (
        "started on this machine · nodes: 1 · CPUs: 2 · GPUs: 0"
    )
