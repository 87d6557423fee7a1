import io
import json
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.decode.child.protocol import (
    MAX_HEADER,
    ProtocolError,
    receive,
    receive_into,
    receive_with_files,
    send,
)

JSON = st.dictionaries(
    st.text(max_size=20), st.none() | st.booleans() | st.integers() | st.text(max_size=50)
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    with a, b:
        a.settimeout(5)
        b.settimeout(5)
        yield a, b


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=JSON, payload=st.binary(max_size=2000))
def test_what_is_sent_arrives(
    ends: tuple[socket.socket, socket.socket], header: dict[str, object], payload: bytes
):
    a, b = ends
    send(a, header, memoryview(payload))
    assert receive(b) == header
    arrived = bytearray(len(payload))
    receive_into(b, memoryview(arrived))
    assert arrived == payload


def test_a_file_arrives_open(ends: tuple[socket.socket, socket.socket], tmp_path):
    path = tmp_path / "video"
    path.write_bytes(b"frames")
    with path.open("rb") as file:
        send(ends[0], {"kind": "job"}, fds=[file.fileno()])
    header, [fd] = receive_with_files(ends[1])
    assert header == {"kind": "job"}
    with os.fdopen(fd, "rb") as file:
        assert file.read() == b"frames"


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", EOFError, None),
        (b"\0\0", EOFError, None),
        (struct.pack("!I", 10) + b"{}", EOFError, None),
        (struct.pack("!I", MAX_HEADER + 1), ProtocolError, "1048577 bytes"),
        (struct.pack("!I", 3) + b"abc", ProtocolError, "not JSON"),
        (struct.pack("!I", 4) + b"\xff\xfe\xff\xfe", ProtocolError, "not JSON"),
        (struct.pack("!I", 2) + b"[]", ProtocolError, "not an object"),
    ],
)
def test_what_is_no_message_is_refused(
    ends: tuple[socket.socket, socket.socket], data: bytes, error: type[Exception], says: str | None
):
    a, b = ends
    a.sendall(data)
    a.close()
    with pytest.raises(error, match=says):
        receive(b)


def test_silence_ends_with_the_sockets_timeout(ends: tuple[socket.socket, socket.socket]):
    ends[1].settimeout(0.05)
    with pytest.raises(TimeoutError):
        receive(ends[1])


def test_headers_are_readable_by_anything(ends: tuple[socket.socket, socket.socket]):
    a, b = ends
    send(a, {"kind": "end"})
    data = io.BytesIO(b.recv(100))
    (length,) = struct.unpack("!I", data.read(4))
    assert json.loads(data.read(length)) == {"kind": "end"}
