"""How the broker and a worker talk over their socket pair: a kind, the rows in the payload, its length, the payload."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

HEADER = struct.Struct("!cIQ")
"""Rows stand in the head of ARROW frames, so that the broker can meter an answer that it does not read; those of the
first batch in the frame before it, the schema's, so that a limit can be met before the first byte."""

OPEN, READY = b"O", b"R"
PING, HERE = b"P", b"H"
QUERY, TABULATE, LOOKUP, CANCEL = b"Q", b"T", b"L", b"C"
ARROW, DONE, ERROR = b"A", b"D", b"E"
"""OPEN, PING, QUERY, TABULATE, LOOKUP and CANCEL go to the worker; ARROW carries bytes of an Arrow stream, the others
JSON."""

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Arrow's end mark: sent only after the last row, so a stream without it is cut off."""


class ChannelGone(Exception):
    """The other side is gone. (Not an OSError: an Arrow stream reports the engine's own errors as such.)"""


def send(sock: socket.socket, kind: bytes, payload: Any, rows: int = 0) -> None:
    """Sends one frame; `payload` is anything with the buffer protocol. Blocks. Raises ChannelGone."""
    view = memoryview(payload).cast("B")
    header = HEADER.pack(kind, rows, view.nbytes)
    try:
        sent = sock.sendmsg([header, view])
        if sent < len(header):
            sock.sendall(header[sent:])
            sent = len(header)
        sock.sendall(view[sent - len(header) :])
    except OSError:
        raise ChannelGone from None


def send_json(sock: socket.socket, kind: bytes, value: Any) -> None:
    """Sends one frame of JSON. Blocks."""
    send(sock, kind, json.dumps(value).encode())


def receive(sock: socket.socket) -> tuple[bytes, bytes]:
    """The next frame; raises ChannelGone. Blocks."""
    kind, _, length = HEADER.unpack(_exactly(sock, HEADER.size))
    return kind, _exactly(sock, length)


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        try:
            data = sock.recv(min(count - len(parts), 1 << 20))
        except OSError:
            raise ChannelGone from None
        if not data:
            raise ChannelGone
        parts += data
    return bytes(parts)
