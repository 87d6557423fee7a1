"""Messages to and from the fork server and the decoder processes: a JSON header, then bytes.

    length of the header (4 bytes, big endian) · header (JSON object) · payload

The receiver knows the payload's size from its own rule. Only the size of a whole picture comes from
the header, and it is checked against the limits first. Nothing is unpickled or evaluated: the
decoder process has parsed hostile input and may be under its control.
Files travel as descriptors, so no side copies them.
"""

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

MAX_HEADER = 1 << 20


MAX_FILES = 2
"""Maximum number of open files that travel with one message."""


_LENGTH = struct.Struct("!I")


class ProtocolError(Exception):
    """The other side sent bytes that are not a message."""


def send(
    sock: socket.socket,
    header: dict[str, Any],
    payload: memoryview | None = None,
    fds: Sequence[int] = (),
) -> None:
    """Send one message, with open files if `fds` are given."""
    text = json.dumps(header).encode()
    data = _LENGTH.pack(len(text)) + text
    if fds:
        data = data[socket.send_fds(sock, [data], fds) :]
    sock.sendall(data)
    if payload is not None:
        sock.sendall(payload)


def receive(sock: socket.socket) -> dict[str, Any]:
    """Receive one header. Its payload, if any, is read with `receive_into`.

    Raises:
        EOFError: the other side has closed the connection.
        TimeoutError: nothing came for the socket's timeout.
        ProtocolError: the bytes are not a header.
    """
    return _header(sock, _exactly(sock, _LENGTH.size))


def receive_with_files(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive one header and the open files that came with it; raises as `receive` does."""
    start, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, MAX_FILES)
    if not start:
        raise EOFError
    start += _exactly(sock, _LENGTH.size - len(start))
    return _header(sock, start), fds


def receive_into(sock: socket.socket, payload: memoryview) -> None:
    """Fill the buffer with the payload that follows a header.

    Raises:
        EOFError: the other side has closed the connection.
        TimeoutError: nothing came for the socket's timeout.
    """
    while payload:
        count = sock.recv_into(payload)
        if not count:
            raise EOFError
        payload = payload[count:]


def _header(sock: socket.socket, start: bytes) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(start)
    if length > MAX_HEADER:
        raise ProtocolError(f"a header of {length} bytes")
    try:
        header = json.loads(_exactly(sock, length))
    except ValueError as error:
        raise ProtocolError(f"a header that is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"a header that is not an object: {header!r}")
    return header


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    receive_into(sock, memoryview(data))
    return bytes(data)
