"""The messages between the Decoder and its child: a JSON header, then raw bytes.

    length of the header (4 bytes, big endian) · header (JSON object) · payload

The receiver knows the payload's size from its own rule; only that of a whole picture comes from the
header, and is held to the limits first. Nothing is unpickled or evaluated, because the child has
parsed hostile input and may by now be its puppet.
The file travels as a descriptor, so that neither side copies it.
"""

import json
import socket
import struct
from typing import Any

MAX_HEADER = 1 << 16


_LENGTH = struct.Struct("!I")


class ProtocolError(Exception):
    """The other side sent something that is no message."""


def send(
    sock: socket.socket, header: dict[str, Any], payload: memoryview | None = None, fd: int = -1
) -> None:
    """Send one message, with an open file if `fd` is given."""
    text = json.dumps(header).encode()
    data = _LENGTH.pack(len(text)) + text
    if fd >= 0:
        data = data[socket.send_fds(sock, [data], [fd]) :]
    sock.sendall(data)
    if payload is not None:
        sock.sendall(payload)


def receive(sock: socket.socket) -> dict[str, Any]:
    """Receive one header; its payload, if any, is read with `receive_into`.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: nothing came for the socket's timeout.
        ProtocolError: what came is no header.
    """
    return _header(sock, _exactly(sock, _LENGTH.size))


def receive_with_file(sock: socket.socket) -> tuple[dict[str, Any], int]:
    """Receive one header and the open file that came with it."""
    start, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, 1)
    if not start:
        raise EOFError
    start += _exactly(sock, _LENGTH.size - len(start))
    if len(fds) != 1:
        raise ProtocolError(f"{len(fds)} files with a message, not one")
    return _header(sock, start), fds[0]


def receive_into(sock: socket.socket, payload: memoryview) -> None:
    """Fill the buffer with the payload that follows a header.

    Raises:
        EOFError: the other side is gone.
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
        raise ProtocolError(f"a header that is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"a header that is no object: {header!r}")
    return header


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    receive_into(sock, memoryview(data))
    return bytes(data)
