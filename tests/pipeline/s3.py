"""An S3 server in this process, with faults on demand: moto's protocol behind a WSGI middleware."""

import io
import logging
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

Environ = dict[str, Any]
Fault = Callable[[Environ], str | None]
"""Given a request, the fault to inject: one of `Faults.KINDS`, or None."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


class Faults:
    """WSGI middleware. Rules are asked in turn; the first that names a fault wins.

    Kinds: `refuse_503` (nothing is applied), `lose_reply` (applied, answered 503), `drop_reply`
    (applied, the connection is closed in mid-answer), `conflict_409` (nothing is applied),
    `ignore_condition` (the server behaves like a store without conditional writes),
    `opaque_412` (a refused condition is answered without naming the condition),
    `lie` (answered 200, nothing is applied), `cut_short` (answered 200, of the body one half is
    applied), `reset` (nothing is applied, the connection is reset), `stall` (nothing is applied,
    no answer comes for `stall_s` seconds).
    """

    KINDS = frozenset(
        {
            "refuse_503",
            "lose_reply",
            "drop_reply",
            "conflict_409",
            "ignore_condition",
            "opaque_412",
            "lie",
            "cut_short",
            "reset",
            "stall",
        }
    )
    stall_s = 3.0

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._conditional = threading.Lock()
        self._rules: list[Fault] = []
        self.injected: list[tuple[str, str]] = []

    @contextmanager
    def rule(self, fault: Fault) -> Iterator[None]:
        with self._lock:
            self._rules.append(fault)
        try:
            yield
        finally:
            with self._lock:
                self._rules.remove(fault)

    def times(self, kind: str, count: int, *, method: str = "PUT", part: str = "") -> Any:
        """Inject a fault into the next `count` requests of a method whose path holds `part`."""
        assert kind in self.KINDS
        left = [count]

        def fault(environ: Environ) -> str | None:
            hit = environ["REQUEST_METHOD"] == method and part in environ["PATH_INFO"]
            if not hit or left[0] == 0:
                return None
            left[0] -= 1
            return kind

        return self.rule(fault)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        # moto reads no further than it must; an unread body would poison the connection.
        body = _read_body(environ)
        with self._lock:
            kind = next((k for rule in self._rules if (k := rule(environ))), None)
            if kind is not None:
                self.injected.append((kind, environ["PATH_INFO"]))
        if kind == "refuse_503":
            return _error(start_response, "503 Service Unavailable", "ServiceUnavailable")
        if kind == "conflict_409":
            return _error(start_response, "409 Conflict", "ConditionalRequestConflict")
        if kind == "lie":
            headers = [("ETag", '"0"'), ("Content-Length", "0")]
            start_response("200 OK", headers)
            return [b""]
        if kind in ("reset", "stall"):
            if kind == "stall":
                time.sleep(self.stall_s)
            _reset(environ["werkzeug.socket"])
            raise ConnectionAbortedError
        if kind == "cut_short":
            body = body[: len(body) // 2]
            environ["CONTENT_LENGTH"] = str(len(body))
        if kind == "ignore_condition":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        environ["wsgi.input"] = io.BytesIO(body)
        if kind in ("lose_reply", "drop_reply"):
            for _ in self._app(environ, lambda *_: None):
                pass
            if kind == "lose_reply":
                return _error(start_response, "503 Service Unavailable", "ServiceUnavailable")
            start_response("200 OK", [("Content-Length", "1000"), ("Connection", "close")])
            return [b"cut"]
        if kind == "opaque_412":
            status: list[str] = []
            answer = list(self._app(environ, lambda s, h, *_: status.append(s)))
            assert status[0].startswith("412"), (status, answer)
            return _error(start_response, "412 Precondition Failed", "PreconditionFailed")
        # moto looks for the object, and then writes: two writers can both find none.
        with self._conditional if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
            return self._app(environ, start_response)


class S3Server:
    """A running server. `bucket()` makes a bucket and returns its URI."""

    def __init__(self) -> None:
        import boto3
        from moto.server import create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.faults = Faults(create_backend_app("s3"))
        self._server = make_server("127.0.0.1", 0, self.faults, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    @property
    def storage_options(self) -> dict[str, Any]:
        """What fsspec needs to reach this server, quick to give up."""
        return {
            "key": "testing",
            "secret": "testing",
            "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }

    def bucket(self, name: str = "") -> str:
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        self._client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def put(self, uri: str, data: bytes) -> None:
        """Write an object past the code under test."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def get(self, uri: str) -> bytes:
        """Read an object past the code under test."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def close(self) -> None:
        self._client.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _read_body(environ: Environ) -> bytes:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return bytes(environ["wsgi.input"].read(length))


def _reset(connection: socket.socket) -> None:
    """End the connection so that the other side is told of a reset once the handler is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)


def _error(start_response: Any, status: str, code: str) -> Iterable[bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    start_response(
        status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    )
    return [body.encode()]
