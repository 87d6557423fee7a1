"""A Ray of tests without the processes that no job needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from ray._private.node import Node


@contextmanager
def bare_nodes() -> Iterator[None]:
    """Start nodes without log monitor, autoscaler and dashboard.

    Each is a process that imports Ray, and then reads files or asks for states all the time.
    """

    def nothing(*_: object, **__: object) -> None: ...

    with mock.patch.multiple(
        Node, start_log_monitor=nothing, start_monitor=nothing, start_api_server=nothing
    ):
        yield
