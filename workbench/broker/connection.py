"""HTTP connections of the broker's sockets: bounded in number, in the size of a head, and in patience."""

from __future__ import annotations

import asyncio
import pwd
import socket
import struct
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
HEAD_SECONDS = 15.0
"""How long a request's line and headers may take, the wait of a new connection included."""
MAX_CONNECTIONS = 128
"""Open connections of one socket: one server's kernels, and no more than the broker has descriptors for."""
_CLOSED = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Connections:
    """The open connections of one socket."""

    def __init__(self) -> None:
        self.open: dict[asyncio.Transport, str] = {}
        """Whose each is, the oldest first; nobody's until its caller is known."""

    def room(self) -> bool:
        """Whether there is room for one more."""
        return len(self.open) < MAX_CONNECTIONS

    def cut(self, owner: str | None = None) -> None:
        """Ends them all, or those of one owner, whatever they wait for."""
        for transport, whose in list(self.open.items()):
            if owner in (None, whose):
                transport.abort()


class SharedConnections(Connections):
    """Those of a socket on which strangers meet: who has most makes room, so that nobody keeps the others out."""

    def room(self) -> bool:
        """Always: where it is full, the oldest connection of whoever has most is ended."""
        if not super().room():
            most = Counter(self.open.values()).most_common(1)[0][0]
            oldest = next(transport for transport, owner in self.open.items() if owner == most)
            del self.open[oldest]
            oldest.abort()
        return True

    def own(self, peer: tuple[str, int] | None, owner: str) -> None:
        """Says whose the connection of this address and port is."""
        for transport in self.open:
            if tuple((transport.get_extra_info("peername") or ())[:2]) == peer:
                self.open[transport] = owner


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which by itself reads a head without end and waits for it for ever."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._connections = connections
        self._mine: asyncio.Transport | None = None
        self._in_head = True
        self._head = 0
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, if there are not too many."""
        if not self._connections.room():
            transport.abort()
            return
        self._connections.open[transport] = ""
        self._mine = transport
        self._patience = self.loop.call_later(HEAD_SECONDS, transport.abort)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        self._calm()
        if self._mine is not None:
            self._connections.open.pop(self._mine, None)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, the head no further than MAX_HEAD."""
        if self._mine is None:
            return
        if self._in_head:
            room = MAX_HEAD - self._head
            self._head += min(len(data), room)
            first, data = data[:room], data[room:]
            super().data_received(first)
            if self._in_head and data:
                self.transport.write(_CLOSED)
                self.transport.abort()
                return
        if data and not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        """A request starts."""
        self._in_head, self._head = True, 0
        if self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head has come to its end."""
        self._in_head = False
        self._calm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What follows is the next request's head."""
        super().on_message_complete()
        self._in_head, self._head = True, 0

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class OperatorProtocol(BoundedProtocol):
    """The same for peers of the operator's uid, or root; others are cut off before they can ask."""

    def __init__(self, *arguments: Any, operator: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._operator = operator

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asks the kernel who is at the other end."""
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = struct.unpack("3i", peer)[1]
        if uid not in (0, self._operator):
            transport.abort()
            return
        self.app_state = {**self.app_state, "operator": _account(uid)}
        super().connection_made(transport)


def _account(uid: int) -> str:
    """The name of a uid's account; its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
