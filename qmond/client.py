"""A client of the daemon's socket.

    with Client() as qmond:
        for line in qmond.tail(events=["READ"]):
            print(line)

It needs nothing of the daemon but its socket, and only the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from qmond.errors import ProtocolError, QmondError, RequestError

__all__ = ["DEFAULT_SOCKET", "Client"]

DEFAULT_SOCKET: Final = Path("/run/qmond/qmond.sock")
_PROTOCOL: Final = 1


class Client:
    """One connection to the daemon; a connection that tails can ask for nothing else."""

    def __init__(self, path: Path | None = None) -> None:
        """Connect to `path`, to $QMOND_SOCKET, or to where the daemon is by default.

        Raises QmondError where there is no daemon or it may not be asked, ProtocolError where it
        does not speak this protocol.
        """
        self._path = path or Path(os.environ.get("QMOND_SOCKET", DEFAULT_SOCKET))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            raise QmondError(f"{self._path}: {error.strerror}", hint=_hint(error)) from error
        self._stream = self._socket.makefile("rb")
        self._requests = 0
        try:
            self.about = self._greeting()
        except QmondError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a thread that waits for a line of this client has come to the end then."""
        with contextlib.suppress(OSError):  # the daemon was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """Return what the daemon says of itself. Raises RequestError."""
        status: dict[str, Any] = self._request("status", {})
        return status

    def ps(self) -> list[dict[str, Any]]:
        """Return the processes under watch. Raises RequestError."""
        processes: list[dict[str, Any]] = self._request("ps", {})
        return processes

    def tail(
        self, *, events: Iterable[str] | None = None, pids: Iterable[int] | None = None
    ) -> Iterator[bytes]:
        """Yield the lines of events from now on, without their newlines, as they come.

        `events` and `pids` choose among them. It ends when the daemon does. Raises RequestError
        at once where the daemon refuses.
        """
        args = {"events": events, "pids": pids}
        self._request(
            "tail", {key: list(value) for key, value in args.items() if value is not None}
        )
        return (line.rstrip(b"\n") for line in self._stream)

    def _greeting(self) -> dict[str, Any]:
        message = self._receive()
        if "error" in message:
            raise RequestError(message["error"]["class"], message["error"]["message"])
        about: dict[str, Any] = message.get("qmond", {})
        if about.get("protocol") != _PROTOCOL:
            raise ProtocolError(f"{self._path}: this is no qmond of protocol {_PROTOCOL}")
        return about

    def _request(self, op: str, args: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
        self._requests += 1
        request = {"id": self._requests, "op": op, "args": args}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        message = self._receive()
        if "error" in message:
            raise RequestError(message["error"]["class"], message["error"]["message"])
        return message["ok"]

    def _receive(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise ProtocolError(f"{self._path}: the daemon hung up")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ProtocolError(
                f"{self._path}: the daemon sent what is not JSON: {error}"
            ) from error
        if not isinstance(message, dict):
            raise ProtocolError(f"{self._path}: the daemon sent no object")
        return message


def _hint(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "only root may ask the daemon"
    return "is the daemon running? `systemctl status qmond`, or start `qmond` as root"
