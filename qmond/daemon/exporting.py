"""The core's part of the metrics: the listening socket for them, and the text file.

If the address is taken or the disk is full, it tries again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qmond.config.keys import Metrics as Config
from qmond.server.access import admit, bind_unix, is_dead

__all__ = ["listening", "write_forever", "write_whole"]

_log = logging.getLogger(__name__)

_RETRY: Final = 5
"""Seconds between two tries to bind the address."""
_BACKLOG: Final = 8


async def listening(
    address: str | None,
    group: Callable[[], int | None],
    ready: Callable[[socket.socket], None],
) -> None:
    """Listen at an address, and call `ready` with the socket; again after it was shut down.

    A Unix socket is for root and a group, which may change. The socket is closed when this is
    cancelled.
    """
    while address is not None:
        admitted = group()
        listener = await _listener(address, admitted)
        _log.info("metrics: %s", address)
        try:
            ready(listener)
            while not is_dead(listener):
                await asyncio.sleep(_RETRY)
                if address.startswith("unix:") and admitted != (admitted := group()):
                    _admit(address, admitted)
        finally:
            listener.close()
            if address.startswith("unix:"):
                Path(address.removeprefix("unix:")).unlink(missing_ok=True)


async def _listener(address: str, group: int | None) -> socket.socket:
    is_reported = False
    while True:
        try:
            return _listen(address, group)
        except OSError as error:
            if not is_reported:
                _log.warning(
                    "no metrics yet: metrics.listen: %s: %s; trying again every %d s",
                    address,
                    error.strerror,
                    _RETRY,
                )
            is_reported = True
            await asyncio.sleep(_RETRY)


async def write_forever(config: Config, text: Callable[[], bytes]) -> None:
    """Write the text file at each interval until cancelled; then remove it, as it gets stale."""
    path = config.textfile
    if path is None:
        return
    failing = False
    try:
        while True:
            try:
                await asyncio.to_thread(write_whole, path, text())
            except OSError as error:
                if not failing:
                    _log.warning("metrics.textfile: %s: %s", path, error.strerror)
                failing = True
            else:
                failing = False
            await asyncio.sleep(config.interval)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def write_whole(path: Path, text: bytes) -> None:
    """Replace a file by another text at once: readers get the old or the new. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)  # the collector is another user
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _listen(address: str, group: int | None) -> socket.socket:
    """Return a listening socket, not blocking. Raises OSError."""
    if address.startswith("unix:"):
        listener = bind_unix(_free(Path(address.removeprefix("unix:"))), group)
    else:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host.strip("[]"), int(port)))
        except OSError:
            listener.close()
            raise
    listener.settimeout(0)
    listener.listen(_BACKLOG)
    return listener


def _admit(address: str, group: int | None) -> None:
    """Let another group connect to a Unix socket; root alone where that is not permitted."""
    path = Path(address.removeprefix("unix:"))
    try:
        admit(path, group)
    except OSError as error:
        _log.warning("metrics.listen: only root may connect to %s: %s", path, error.strerror)
        with contextlib.suppress(OSError):
            admit(path, None)


def _free(path: Path) -> Path:
    """Remove the socket that a killed daemon left at a path; returns the path. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            if path.is_socket():  # never remove another file
                path.unlink()
        else:
            raise FileExistsError(errno.EADDRINUSE, "another program listens there")
    return path
