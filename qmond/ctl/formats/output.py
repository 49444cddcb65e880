"""The file of an export: the old one stays as it is until the new one is complete."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["written"]


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that becomes `path` at the end, unless an exception ends the block.

    What is not a regular file, such as a FIFO, a device or /dev/stdout, is written to directly.
    Raises OSError.
    """
    found = _stat(path)
    target = Path(os.path.realpath(path))
    if found is not None and not _is_replaceable(found, target):
        with path.open("wb") as file:
            yield file
        return
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with _created(part, found) as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _stat(path: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return path.stat()
    return None


def _is_replaceable(found: os.stat_result, target: Path) -> bool:
    """Return whether a file is regular, and has the name `target`, and is not standard output."""
    named = _stat(target)
    if not stat.S_ISREG(found.st_mode) or named is None or not os.path.samestat(found, named):
        return False
    with suppress(OSError):  # standard output is closed
        return not os.path.samestat(found, os.fstat(1))
    return True


def _created(part: Path, old: os.stat_result | None) -> IO[bytes]:
    """Create a file with the mode and owner of the old one, if there is one. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
    file = os.fdopen(os.open(part, flags, mode), "wb")
    if old is not None:
        with suppress(PermissionError):
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
        os.fchmod(file.fileno(), mode)  # the umask has taken bits away
    return file
