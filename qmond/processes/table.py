"""The process table: for each process ID, the process, its guest, and the guest's architecture.

It is updated by records in the order of the ring: a fork comes before the child's first event, an
exec before the first event of the new program. If a record was lost, the table does not know the
process, and asks a looker. Until the answer comes, the fields of that process are empty.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import orjson

from qmond.clock import TICK_NS
from qmond.escape import json_bytes
from qmond.events.records import IMAGE_FORMAT, PARENT_FORMAT, PARENTS_MAX, Flag
from qmond.events.table import NUMBER
from qmond.processes.cgroups import container_of
from qmond.processes.guests import architecture, guest_of, whole_path
from qmond.processes.texts import Texts

__all__ = [
    "Answer",
    "News",
    "Parents",
    "Process",
    "ProcessTable",
    "json_text",
    "parse_names",
    "parse_parents",
    "text_of",
    "words_of",
]

_ADOPT: Final = NUMBER["TRACK_ADOPT"]

_ASKED_MAX: Final = 4096
"""The most questions about processes that are open at a time."""
_CONFIRMED: Final = 256
"""Processes that are asked for again in one go, after a loss."""
_LONG: Final = 256
"""Bytes; a longer suffix is not kept, but rendered again from the guest's path."""

_INVALID: Final = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of a byte


def text_of(data: bytes) -> str:
    """Return bytes as text; each byte that is not valid UTF-8 becomes U+FFFD."""
    return _INVALID.sub("\ufffd", data.decode(errors="surrogateescape"))


def json_text(data: bytes) -> bytes:
    """Return `text_of(data)` as a JSON string."""
    return json_bytes(text_of(data))


def words_of(argv: bytes) -> list[bytes]:
    """Split an argument vector whose words end with NUL."""
    return argv.removesuffix(b"\0").split(b"\0") if argv else []


Parents = tuple[tuple[int, str], ...]
"""Process IDs and comms of the ancestors, the parent first."""


@dataclass(frozen=True, slots=True)
class Process:
    """A watched process. `pid` and `start` identify it.

    `start` is in nanoseconds since boot, rounded down to clock ticks as in /proc. `tree` is the
    pid of the process that its tree began with. The words of `argv` end with NUL. `truncated` says
    that `argv` is not complete. `cwd` is the directory in which this program was executed, or None
    if it is not known. `bin_json` and `suffix` are the constant parts of its lines, rendered once.
    """

    pid: int
    ppid: int = 0
    bin: str = ""
    origin: str = "unknown"
    argv: bytes = b""
    comm: str = ""
    guest: bytes | None = None
    cwd: bytes | None = None
    arch: str | None = None
    launch: str = ""
    uid: int = 0
    cgroup: str | None = None
    container: str | None = None
    start: int = 0
    tree: int = 0
    parents: Parents = ()
    allocations: str = ""
    truncated: bool = False
    bin_json: bytes = b'""'
    suffix: bytes = b""

    def rendered(self) -> Process:
        """Return a copy with the constant parts of its lines."""
        arch = b',"arch":' + orjson.dumps(self.arch) if self.arch else b""
        guest = _member(b"guest", self.guest) + _member(b"guest_path", self.guest_path)
        name = b"%b" % orjson.dumps(self.bin)  # a copy: orjson's object has kilobytes allocated
        return replace(self, bin_json=name, suffix=arch + guest)

    @property
    def guest_path(self) -> bytes | None:
        """The absolute path of a guest whose path is relative, or None if it is not known."""
        if not self.guest or self.guest.startswith(b"/") or self.cwd is None:
            return None
        return whole_path(self.cwd, self.guest)

    def is_same_image(self, other: Process) -> bool:
        """Whether `other` is this process, and runs the same program."""
        mine = self.start, self.bin, self.argv
        return mine == (other.start, other.bin, other.argv)


def _member(key: bytes, text: bytes | None) -> bytes:
    if text is None:
        return b""
    exact = b""
    if text_of(text).encode() != text:
        exact = b',"%b_b64":"%b"' % (key, base64.b64encode(text))
    return b',"%b":%b%b' % (key, json_text(text), exact)


class News(NamedTuple):
    """Changes of the table: processes that are new or changed, have ended, or are over budget."""

    started: list[Process]
    ended: list[int]
    over_budget: list[int]


Answer = Callable[[Process | None], Process | None]
"""A callback for the answer of a looker; returns the process if it was entered into the table."""


class ProcessTable:
    """The watched processes, by tgid.

    `ask` is called for a process that no record was seen of, with its user if that is known. It
    may answer later or at once. A record that comes before the answer wins. `allocations` returns
    whether a process' allocations are counted, as TRACK_ADOPT has it. `changed` is called for each
    process whose constant parts of a line have changed.
    """

    def __init__(
        self,
        ask: Callable[[int, int | None, Answer], object],
        allocations: Callable[[Process], str],
        changed: Callable[[int], None],
    ) -> None:
        self._ask = ask
        self._allocations = allocations
        self._changed = changed
        self._processes: dict[int, Process] = {}
        self._asked: dict[int, object] = {}
        self._unconfirmed: dict[int, None] = {}
        self._unknown: dict[int, Process] = {}
        self._texts = Texts()
        self._news = News([], [], [])

    def __len__(self) -> int:
        return len(self._processes)

    def __iter__(self) -> Iterator[Process]:
        return iter([self._shown(process) for process in self._processes.values()])

    def __contains__(self, pid: int) -> bool:
        return pid in self._processes

    def __getitem__(self, pid: int) -> Process:
        """Return a process. If it is not known, its fields are empty, and a looker is asked."""
        known = self._processes.get(pid)
        if known is None:
            self._ask_for(pid, None)
            known = self._processes.get(pid)  # if the answer came at once
        elif pid in self._unconfirmed:
            self._ask_for(pid, known.uid)
            known = self._processes[pid]
        return self._shown(known) if known else self._unknown.setdefault(pid, Process(pid))

    def uid_of(self, pid: int) -> int | None:
        """Return the real user ID of a process, or None if it is not known."""
        known = self._processes.get(pid)
        return known.uid if known else None

    def descendants(self, pid: int) -> list[int]:
        """Return the known descendants of a process."""
        return [
            process.pid
            for process in self
            if process.ppid == pid or any(parent == pid for parent, _ in process.parents)
        ]

    def adopt(self, process: Process) -> Process:
        """Enter a process, or replace it; returns it with `allocations` set."""
        process = replace(process, allocations=self._allocations(process))
        self._enter(process)
        return process

    def expect(self, pid: int) -> Answer:
        """Return the callback for an answer about a process that the caller asks for."""
        ticket = self._asked[pid] = object()
        return partial(self._answer, pid, ticket)

    def fork(self, parent: int, child: int, start: int) -> None:
        """Enter a child that was forked `start` ns after boot: it runs what its parent runs."""
        known = self[parent]
        self._enter(
            replace(
                known,
                pid=child,
                ppid=parent,
                tree=known.tree or parent,
                origin="fork",
                start=start // TICK_NS * TICK_NS,
                parents=((parent, known.comm), *known.parents)[:PARENTS_MAX],
            )
        )
        if parent not in self._processes or parent in self._unconfirmed:
            self._unconfirmed[child] = None

    def note_over_budget(self, pid: int) -> None:
        """Note that a process exceeds the budget of allocation probes."""
        self._news.over_budget.append(pid)

    def forget(self, pid: int) -> None:
        """Remove a process that has ended."""
        if known := self._processes.pop(pid, None):
            self._drop_texts(known)
        self._unconfirmed.pop(pid, None)
        self._asked.pop(pid, None)
        self._changed(pid)
        self._news.ended.append(pid)

    def doubt(self, is_tracked: Callable[[int], bool]) -> None:
        """After a loss of records: remove untracked processes, and mark the others as unconfirmed.

        Until a process is confirmed, its guest and command line are not shown.
        """
        for pid in [pid for pid in self._processes if not is_tracked(pid)]:
            self.forget(pid)
        self._asked.clear()
        self._unconfirmed = dict.fromkeys(self._processes)
        for pid in self._unconfirmed:
            self._changed(pid)

    def confirm(self) -> None:
        """Ask for some of the unconfirmed processes."""
        for pid in tuple(islice(self._unconfirmed, _CONFIRMED)):
            self._unconfirmed[pid] = self._unconfirmed.pop(pid)  # the others are first next time
            self._ask_for(pid, self._processes[pid].uid)

    def take_news(self) -> News:
        """Return the changes since the last call."""
        news, self._news = self._news, News([], [], [])
        for pid in self._unknown:
            self._changed(pid)
        self._unknown.clear()
        return news

    def image(self, record: bytes) -> Process:
        """Enter a process from an image record: from here on, it executes this program."""
        _, pid, _, number, _, flags, ppid, uid, start = IMAGE_FORMAT.unpack_from(record)
        strings = IMAGE_FORMAT.size + PARENTS_MAX * PARENT_FORMAT.size
        name, filename, cgroup, cwd, argv = record[strings:].split(b"\0", 4)
        text = text_of(name)
        arch = architecture(text)
        interpreted = bool(flags & Flag.INTERPRETED)
        words = words_of(argv)
        guest = guest_of(filename, words, emulated=arch is not None, interpreted=interpreted)
        launch = "binfmt" if interpreted else "direct"
        if number == _ADOPT:
            parents, tree = parse_parents(record[IMAGE_FORMAT.size : strings]), pid
        else:
            launch, known = "nested", self[pid]
            parents, tree = known.parents, known.tree or pid
        if flags & Flag.TRUNCATED and words and guest is words[-1]:
            guest = None  # its path is cut
        path = parse_names(cgroup)
        group = text_of(path) if path is not None else None
        process = Process(
            pid=pid,
            ppid=ppid,
            tree=tree,
            bin=text,
            origin="exec",
            argv=argv,
            truncated=bool(flags & (Flag.TRUNCATED | Flag.FAULT)),
            comm=text_of(os.path.basename(filename)[:15]),
            guest=guest,
            cwd=parse_names(cwd),
            arch=arch,
            launch=launch,
            uid=uid,
            cgroup=group,
            container=container_of(group),
            start=start // TICK_NS * TICK_NS,
            parents=parents,
        )
        return self.adopt(process.rendered())

    def _confirmed(self, known: Process) -> Process:
        """Trust a process again; the same command may have been executed in another directory."""
        if known.cwd is not None:
            self._texts.drop(known.cwd)
            known = self._processes[known.pid] = _kept(replace(known, cwd=None).rendered())
        self._unconfirmed.pop(known.pid, None)
        self._changed(known.pid)
        return known

    def _shown(self, known: Process) -> Process:
        """Return a process as it is shown: an unconfirmed one may run another program by now."""
        if known.pid not in self._unconfirmed:
            return known if known.suffix or not known.guest else known.rendered()
        return replace(known, argv=b"", guest=None, cwd=None, arch=None, bin_json=b'""', suffix=b"")

    def _enter(self, process: Process) -> None:
        pid = process.pid
        before, kept = self._processes.get(pid), self._with_texts(process)
        if before is not None:
            self._drop_texts(before)
        self._processes[pid] = kept
        self._unconfirmed.pop(pid, None)
        self._asked.pop(pid, None)
        self._unknown.pop(pid, None)
        self._changed(pid)
        self._news.started.append(kept)

    def _with_texts(self, process: Process) -> Process:
        """Return a process as it is kept: without texts that exceed the budget."""
        argv = self._texts.take(process.argv) or b""
        guest, cwd = (text and self._texts.take(text) for text in (process.guest, process.cwd))
        kept = replace(process, argv=argv, guest=guest, cwd=cwd)
        if (guest, cwd) != (process.guest, process.cwd):
            kept = kept.rendered()
        return _kept(kept)

    def _drop_texts(self, process: Process) -> None:
        for text in (process.argv, process.guest or b"", process.cwd or b""):
            self._texts.drop(text)

    def _ask_for(self, pid: int, uid: int | None) -> None:
        """Ask for a process, unless a question is open already."""
        if pid not in self._asked and len(self._asked) < _ASKED_MAX:
            self._ask(pid, uid, self.expect(pid))

    def _answer(self, pid: int, ticket: object, found: Process | None) -> Process | None:
        """Enter the answer, unless a record of this process has come since the question."""
        if self._asked.get(pid) is not ticket:
            return None
        del self._asked[pid]
        if found is None:
            return None
        known = self._processes.get(pid)
        if known is not None and found.is_same_image(known):
            return self._confirmed(known)
        if known is not None and found.start == known.start:  # it executes another program
            found = replace(found, tree=known.tree)
        return self.adopt(found)


def _kept(process: Process) -> Process:
    """Return a process without a long suffix, which is rendered again when it is shown."""
    return process if len(process.suffix) <= _LONG else replace(process, suffix=b"")


def parse_names(data: bytes) -> bytes | None:
    """Return a path from its names in an image record, each with a slash, the innermost first.

    Returns None if they do not reach up to the root: then the last slash is missing.
    """
    if data and not data.endswith(b"/"):
        return None
    return b"/" + b"/".join(reversed(data.split(b"/")[:-1]))


def parse_parents(data: bytes) -> Parents:
    """Parse the ancestors in an image record; pid 0, the kernel's own, is left out."""
    rows = PARENT_FORMAT.iter_unpack(data)
    return tuple((pid, text_of(comm.partition(b"\0")[0])) for pid, comm in rows if pid)
