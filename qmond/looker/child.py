"""One looker, from the daemon's side: its process, and the socket to it."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import orjson

from qmond.looker.requests import LINKS_MAX, MESSAGE_MAX, load

__all__ = ["COMMAND", "Child", "CrashError", "close"]

COMMAND: Final = (sys.executable, "-P", "-m", "qmond.looker.process")
"""The command that starts a looker."""
_START: Final = 30.0
"""Seconds for a new process to report that it is ready."""
_END: Final = 0.5
"""Seconds after SIGKILL in which a process ends, unless it is blocked."""


class CrashError(Exception):
    """The looker has ended by itself."""


class Child:
    """A looker; `program` is the descriptor of the program for allocation probes, or -1."""

    def __init__(self, root: Path, program: int, command: tuple[str, ...]) -> None:
        """Start the process. Raises OSError."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                words = [theirs.fileno(), root, program, os.getpid()]
                self._process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
                    [*command, *map(str, words)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *([program] if program >= 0 else [])],
                )
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self._channel.close()
            raise
        self._channel.settimeout(0)

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    async def greet(self) -> None:
        """Wait until it is ready. Raises CrashError, ValueError, TimeoutError."""
        await self.receive(_START)

    def send(self, request: dict[str, Any]) -> None:
        """Send a request. Raises CrashError."""
        try:
            self._channel.send(orjson.dumps(request))
        except OSError as error:
            raise CrashError(str(error)) from error

    async def receive(self, seconds: float) -> tuple[dict[str, Any], list[int]]:
        """Return the next message, and the descriptors that came with it.

        Raises CrashError, ValueError, TimeoutError.
        """
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._channel, ready.set)
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        finally:
            loop.remove_reader(self._channel)
        flags = socket.MSG_CMSG_CLOEXEC
        try:
            data, links, said, _ = socket.recv_fds(self._channel, MESSAGE_MAX, LINKS_MAX, flags)
        except OSError as error:
            raise CrashError(str(error)) from error
        problem: Exception | None = None
        if not data:
            problem = CrashError("it hung up")
        elif said & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            problem = ValueError("a message is too long")
        try:
            if problem is not None:
                raise problem
            return load(data), links
        except (CrashError, ValueError):
            close(links)
            raise

    def kill(self) -> None:
        """Send SIGKILL, and close the socket."""
        self._channel.close()
        self._process.kill()

    async def has_ended(self) -> bool:
        """Wait a moment after `kill`; returns whether the process has ended, and cleans up then."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.pidfd, ended.set)
        try:
            async with asyncio.timeout(_END):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self.pidfd)
        self.reap()
        return True

    def reap(self) -> None:
        """Reap the process, which has ended, and close its descriptor."""
        os.close(self.pidfd)
        self._process.wait()

    def leave(self) -> None:
        """Close the descriptor of a process that may not have ended."""
        ended = select.select([self.pidfd], [], [], 0)[0]
        os.close(self.pidfd)
        if ended:
            self._process.wait()
        else:
            self._process.returncode = -1  # so that Popen does not wait for it


def close(links: list[int]) -> None:
    """Close descriptors that are not needed."""
    for link in links:
        os.close(link)
