"""Events out of files: logs, compressed or not, a record's folder, or standard input."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from qmond.errors import QmondError

__all__ = ["DEFAULT_LOG", "files_of", "read"]

DEFAULT_LOG: Final = Path("/var/log/qmond")
_TOLD: Final = 5
"""How many bad lines of a file are told one by one."""


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are meant, oldest first; a folder means its logs. Raises QmondError."""
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("events-*.jsonl*")) + sorted(path.glob("events.jsonl"))
            if not inside:
                raise QmondError(f"{path}: no events.jsonl is in it")
            found += inside
        else:
            found.append(path)
    return found


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the events of files, `-` is standard input; what is none is told, and left out.

    Raises QmondError where a file cannot be read.
    """
    for path in files_of(paths):
        bad = 0
        try:
            with _open(path) as file:
                for number, line in enumerate(file, 1):
                    event = _parsed(line)
                    if event is not None:
                        yield event
                        continue
                    bad += 1
                    if bad <= _TOLD:
                        sys.stderr.write(f"qmonctl: {path}:{number}: no whole event, left out\n")
        except (OSError, EOFError) as error:
            raise QmondError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        if bad > _TOLD:
            sys.stderr.write(f"qmonctl: {path}: {bad} lines in all were left out\n")


def _open(path: Path) -> IO[bytes]:
    if str(path) == "-":
        return sys.stdin.buffer
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value] # it reads, which is all
    if path.suffix == ".zst":
        import zstandard  # noqa: PLC0415 - only where there is such a file

        return io.BufferedReader(zstandard.open(path, "rb"))
    return path.open("rb")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("ts"), int | float)
    return event if whole and isinstance(event.get("event") or event.get("evt"), str) else None
