"""Rare and important lines, kept a second time by user, so that no storm removes them.

The oldest files of the log are removed first, whoever made the lines in them. So a guest that
writes without end would remove everybody's past. The lines about started programs, forks,
connections and ends are a thousandth of all lines. They are kept a second time in `lives/` below
the log's directory. There, a user's lines remove only lines of the same user: `uid-1000.jsonl`, and
`uid-1000.old.jsonl` from before it was full. A range of 65,536 user IDs above the first range
counts as one user, as subuid(5) gives it to containers.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import orjson

from qmond.config.keys import Log
from qmond.errors import QmondError
from qmond.events.table import EVENTS
from qmond.log.files import open_directory, open_live
from qmond.log.history import number_of

__all__ = ["Lives"]

_log = logging.getLogger(__name__)

_MASK: Final = sum(1 << number for number, event in enumerate(EVENTS) if event.rare)
_USERS: Final = 64
"""The most users with files. If there are more, those without lines for longest lose theirs."""
_RANGE: Final = 1 << 16
_TAIL: Final = 1 << 20
"""Bytes; a batch has less of one user."""
# How a line begins: before these keys, there is no text that a guest chose.
_HEAD: Final = re.compile(
    rb'\{"ts":[\d.]+,"event":"(\w+)"(?:,"(?:pid|parent)":(\d+)(?:,"child":(\d+))?)?'
)


class Lines(Protocol):
    """A batch of lines."""

    def select(self, mask: int, pids: None) -> tuple[bytes, int]:
        """Return the lines of the events in `mask`, and their number."""


class Lives:
    """The files of all users. A failure is logged once, and delays nobody.

    `group` may read the files. `uid_of` returns the real user ID of a process that was watched
    before this daemon started, or None. `redone` is the number of the first line that this daemon
    repeats after a crash of the last one, or None.
    """

    def __init__(
        self,
        config: Log,
        group: int | None,
        uid_of: Callable[[int], int | None],
        redone: int | None,
    ) -> None:
        self._folder = config.dir / "lives"
        self._group = group
        self._uid_of = uid_of
        self._redone = redone
        self._users: dict[int, str] = {}  # stem of the file, by process
        self._recovered: set[Path] = set()
        self._failing = False
        self.configure(config)

    def configure(self, config: Log) -> None:
        """Put another quota in force."""
        self._most = config.keep.lives // _USERS // 2

    def take(self, batch: Lines) -> None:
        """Write the rare lines of a batch."""
        lines, count = batch.select(_MASK, None)
        if not count:
            return
        by_user: defaultdict[str, list[bytes]] = defaultdict(list)
        for line in lines.splitlines(keepends=True):
            by_user[self._user_of(line)].append(line)
        if not self._most:
            return
        try:
            open_directory(self._folder, self._group)
            for user, chosen in by_user.items():
                self._write(self._folder / f"{user}.jsonl", b"".join(chosen))
        except (OSError, QmondError) as error:
            if not self._failing:
                _log.warning("lives/ cannot be written, its lines are in the log only: %s", error)
            self._failing = True
        else:
            self._failing = False

    def _user_of(self, line: bytes) -> str:
        """Return the stem of the file for a line, and follow forks and ends of processes."""
        head = _HEAD.match(line)
        if head is None or head[2] is None:
            return "host"
        name, pid = head[1], int(head[2])
        if name == b"TRACK_ADOPT":
            self._users[pid] = _user(orjson.loads(line)["uid"])
        user = self._users.get(pid)
        if user is None:
            user = self._users[pid] = _user(self._uid_of(pid))
        if name == b"TRACK_FORK":
            self._users[int(head[3])] = user
        elif name == b"EXIT":
            del self._users[pid]
        return user

    def _write(self, path: Path, lines: bytes) -> None:
        if not path.exists():
            self._remove_a_user()
        fd = open_live(path, self._group)
        try:
            if path not in self._recovered:
                _recover(fd, self._redone)
                self._recovered.add(path)
            os.write(fd, lines)
            full = os.fstat(fd).st_size >= self._most
        finally:
            os.close(fd)
        if full:
            path.rename(path.with_suffix(".old.jsonl"))

    def _remove_a_user(self) -> None:
        """If there are too many users, remove the files that were not written to for longest."""
        files = {path: path.stat().st_mtime for path in self._folder.glob("*.jsonl")}
        users = {path.name.partition(".")[0] for path in files}
        if len(users) >= _USERS:
            latest = {user: max(files[p] for p in files if _is_of(p, user)) for user in users}
            silent = min(latest, key=latest.__getitem__)
            for path in files:
                if _is_of(path, silent):
                    path.unlink()


def _user(uid: int | None) -> str:
    """Return the stem of a user's file; None is an unknown user."""
    if uid is None:
        return "unknown"
    if uid < _RANGE:
        return f"uid-{uid}"
    first = uid // _RANGE * _RANGE
    return f"uid-{first}-{first + _RANGE - 1}"


def _is_of(path: Path, user: str) -> bool:
    return path.name.partition(".")[0] == user


def _recover(fd: int, redone: int | None) -> None:
    """Cut a file so that it ends with a complete line, before the lines that are repeated."""
    size = os.fstat(fd).st_size
    begin = max(0, size - _TAIL)
    tail = os.pread(fd, _TAIL, begin)
    tail = tail[: tail.rfind(b"\n") + 1]
    if redone is not None:
        while tail:
            last = tail.rfind(b"\n", 0, -1) + 1
            if number_of(tail[last:]) < redone:
                break
            tail = tail[:last]
    os.ftruncate(fd, begin + len(tail))
