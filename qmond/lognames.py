"""The names of the event log's files, for who writes the log and for who reads it.

The daemon writes to `events.jsonl`. A rotation renames it to
`events-20261123T083452.123456Z.jsonl`, after the moment. It may be compressed later (`.zst`,
`.gz`). `events-….torn` has what a crash left of a last line.
"""

from __future__ import annotations

import contextlib
import re
from datetime import datetime
from pathlib import Path
from typing import Final

__all__ = [
    "COMPRESSED",
    "FRESH",
    "LIVE",
    "PART",
    "PLAIN",
    "ROTATED",
    "rotated_files",
    "rotated_name",
    "rotation_time",
]

PLAIN: Final = ".jsonl"
LIVE: Final = f"events{PLAIN}"
FRESH: Final = "events.new"
"""The name of the next live file until the one before is renamed."""
ROTATED: Final = "events-*"
"""The glob of all files that were renamed."""
COMPRESSED: Final = {"zstd": ".zst", "gzip": ".gz"}
"""What a compressed file's name ends with, by the configuration's word."""
PART: Final = ".part"
"""What the name of a file ends with that is not yet compressed to its end."""
_TIME: Final = re.compile(r"events-(\d{8}T\d{6}\.\d{6}Z)\.")


def rotated_name(moment: datetime) -> str:
    """Return the name of a file that is rotated at a moment, in UTC."""
    return f"events-{moment:%Y%m%dT%H%M%S.%f}Z{PLAIN}"


def rotation_time(name: str) -> datetime | None:
    """Return the moment in a file's name; None where there is none."""
    with contextlib.suppress(ValueError):
        if found := _TIME.match(name):
            return datetime.fromisoformat(found[1])
    return None


def rotated_files(directory: Path) -> list[Path]:
    """Return the rotated files that have whole lines, the oldest first.

    For a moment a file is there both plain and compressed. Then the plain one is returned, whose
    inode is the one that a `Position` in it has. A long folder is not listed at one moment: a file
    that gets its compressed name meanwhile may be missed under both, so it is listed again.
    """
    paths = [
        path
        for _ in range(2)
        for path in directory.glob(f"{ROTATED}{PLAIN}*")
        if path.suffix != PART
    ]
    found = {path.name.partition(PLAIN)[0]: path for path in sorted(paths, reverse=True)}
    return [found[stem] for stem in sorted(found)]
