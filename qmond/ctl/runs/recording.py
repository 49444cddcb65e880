"""Recording: runs a command, reads the lines of its process tree, and notes what is missing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson

from qmond.client import Client
from qmond.ctl.connection import connect
from qmond.ctl.runs import ancestors, command, summary
from qmond.ctl.runs.commandtree import CommandTree
from qmond.ctl.runs.digest import LISTED, Digest
from qmond.ctl.runs.missing import Missing
from qmond.ctl.runs.ostext import keys_of, text_of
from qmond.errors import ArgumentError, QmondError
from qmond.escape import json_bytes
from qmond.events.groups import resolve
from qmond.events.tree import NEEDED
from qmond.namespaces import in_first_pid_namespace, own_id_in

__all__ = ["Recording"]

_STALL_MAX: Final = 60
"""Seconds without a line before the rest is given up: a client that lags waits for the log."""
_DRAIN_MAX: Final = 60
"""Seconds for the daemon to write all events that the kernel had counted."""
_REPORT: Final = 1.5
"""Seconds until what was suppressed is surely reported: the daemon does it once a second."""
_OF_NO_PROCESS: Final = frozenset({"START", "END", "CLOCK", "DROPPED", "GAP"})
_LOSSES: Final = frozenset({"LOST", "SUPPRESSED", "DROPPED", "GAP"})
_NO_GUEST: Final = "no guest was seen: qmond watches only qemu-user processes and their descendants"
_NOT_TOLD: Final = (
    "this is another pid namespace than the host's, whose process IDs the events have, and the "
    "daemon does not tell the ID of this process there"
)
_NAMESPACE_HINT: Final = (
    "run this on the host, in a container with --pid=host, or as root where the host's /proc is "
    "mounted at the daemon's `procfs`: see docs/operations.md"
)
_LEFT_BEHIND: Final = "the command has ended; waiting for processes that it left (^C ends the wait)"
_LATE: Final = "waiting for the last lines of the daemon"
_SLOW: Final = 2.0
"""Seconds until the user is told that the daemon is waited for."""
_KEYS: Final = ("events", "fields", "limits", "match", "capture")
"""The keys of the daemon's configuration that decide what is recorded."""


class Recording:
    """Runs a command once. `events` are the events to write, None for all of them.

    `words` are the command and its arguments, `path` is the daemon's socket or None. Raises
    QmondError if the daemon cannot be reached, or its configuration does not allow a recording.
    """

    def __init__(self, path: Path | None, words: list[str], events: Collection[str] | None) -> None:
        self.digest = Digest()
        self.write_error: OSError | None = None
        """The error if the lines could not be written."""
        self._path = path
        self._words = words
        self._client = connect(path)
        try:
            self._config = self._client.config()
            self._tree = CommandTree(_own_id(self._client.about, Path(self._config["procfs"])))
            self._known = [event["name"] for event in self._client.events()]
            self._wanted = self._wanted_events(events)
            self._before = self._client.status()["counters"]
        except QmondError:
            self._client.close()
            raise
        self._missing = Missing(self._concerned)
        self._note_switched_off()
        self._last = self._client.about.get("newest") or 0
        self._result: dict[str, Any] = {}
        self._seconds = 0.0
        self._has_ended = False

    def _wanted_events(self, events: Collection[str] | None) -> frozenset[str]:
        if self._config["fields"] != "full":
            raise QmondError(
                "the daemon's configuration has `fields: original`: its lines lack needed keys",
                hint="set `fields: full`",
            )
        if off := sorted(NEEDED - set(self._config["events"])):
            raise QmondError(
                f"the daemon's configuration switches {', '.join(off)} off, "
                "which are needed to follow the process tree",
                hint="add them to `events`",
            )
        return frozenset(_chosen(events, self._known)) - _OF_NO_PROCESS

    @property
    def _concerned(self) -> frozenset[str]:
        """The events that the record is made of."""
        return self._wanted | NEEDED | LISTED & set(self._known)

    def _note_switched_off(self) -> None:
        needed = self._concerned | {"LOST", "SUPPRESSED"}
        if off := sorted(needed - set(self._config["events"])):
            self._missing.note(f"switched off in the daemon's configuration: {', '.join(off)}")

    @property
    def missing(self) -> list[str]:
        """The reasons why the record is not complete."""
        return self._missing.reasons

    def run(self, out: IO[bytes], wait: float, tell: Callable[[str], None]) -> tuple[int, str]:
        """Run the command, and write the lines of its process tree to `out`.

        After its end, waits at most `wait` seconds for the processes that it left, and then for the
        daemon. Calls `tell` with what it waits for, if that takes long. Returns the exit status,
        and the error if the command could not be started, or "".
        """
        lines = self._client.tail(from_seq=self._last + 1)
        with command.adopting_orphans(), command.holding_signals() as mask:
            reading = threading.Thread(target=self._read, args=(lines, out))
            began, since = _now(), time.monotonic()
            reading.start()
            try:
                status, error = command.run(self._words, mask)
                self._result = {"began": began, "ended": _now(), "exit": status}
                self._seconds = time.monotonic() - since
                command.await_descendants(wait, lambda: tell(_LEFT_BEHIND))
                with _slowly(lambda: tell(_LATE)):
                    self._catch_up()
            finally:
                self._has_ended = True
                self._client.close()  # this ends the thread
                reading.join()
            self._note_rest()
        return status, error

    def _read(self, lines: Iterator[bytes], out: IO[bytes]) -> None:
        try:
            for line in lines:
                self._handle(line, out)
            reason = "the daemon stopped"
        except (QmondError, ValueError) as error:  # ValueError: closed by this process
            reason = f"the connection to the daemon broke: {error}"
        except OSError as error:
            self.write_error, reason = error, "the lines could not be written"
        except (AttributeError, KeyError, TypeError) as error:
            reason = f"the daemon sent a line that makes no sense: {error!r}"
        if not self._has_ended:
            self._has_ended = True
            self._missing.note(f"{reason}; the last line was {self._last}")

    def _handle(self, line: bytes, out: IO[bytes]) -> None:
        event = orjson.loads(line)
        name = event.get("event") or event["evt"]
        seq = event["to_seq"] if name == "GAP" else event["seq"]
        if name not in _LOSSES and seq != self._last + 1:
            self._missing.note(f"lines {self._last + 1} to {seq - 1} were not received")
        if name != "DROPPED":  # it has the number of the next line
            self._last = seq
        is_in_tree = self._has(event)
        if name in _LOSSES:
            self._missing.add_loss(name, event, self.digest.pids)
        elif "evt" in event:
            self.digest.count(name, event["meta"].get("by_pid", {}))
        elif is_in_tree:
            self.digest.add(event)
            self._missing.add(event)
            if name in self._wanted:
                out.write(line + b"\n")

    def _has(self, event: dict[str, Any]) -> bool:
        """Whether an event is one of the tree's, also if TRACK_ADOPT lacks ancestors."""
        parents = event.get("parents", [])
        if event.get("event") != "TRACK_ADOPT" or len(parents) < ancestors.TOLD_MAX:
            return self._tree.has(event)
        more: list[int] = []
        are_all = False
        if in_first_pid_namespace():
            more, are_all = ancestors.above(parents[-1]["pid"])
        rows = [*parents, *({"pid": pid} for pid in more)]
        is_in_tree = self._tree.has(event | {"parents": rows})
        if not is_in_tree and not are_all:
            what = "it is not known whether the command started"
            self._missing.note_processes(what, event["pid"])
        return is_in_tree

    # ---- the end -------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Wait until all events up to now are in lines, and these lines are read."""
        try:
            with Client(self._path, timeout=_DRAIN_MAX) as client:
                counters = self._await_daemon(client)
            held_back = self._counted("suppressed", counters)
            self._missing.count(self._counted("lost", counters), held_back)
            if held_back:
                time.sleep(_REPORT)
            with Client(self._path, timeout=_DRAIN_MAX) as client:
                newest = client.about.get("newest") or 0
                config = client.config()
        except QmondError as error:
            self._missing.note(f"the daemon could not be reached at the end: {error.args[0]}")
            return
        if changed := [key for key in _KEYS if config[key] != self._config[key]]:
            what = ", ".join(changed)
            self._missing.note(f"the daemon's configuration was changed meanwhile: {what}")
        previous, since = self._last, time.monotonic()
        while self._last < newest and not self._has_ended:
            time.sleep(0.01)
            if self._last > previous:
                previous, since = self._last, time.monotonic()
            elif time.monotonic() - since > _STALL_MAX:
                break
        if self._last < newest:
            wait = "" if self._has_ended else f" in {_STALL_MAX} s"
            self._missing.note(f"lines {self._last + 1} to {newest} were not received{wait}")

    def _counted(self, column: str, counters: dict[str, dict[str, int]]) -> dict[str, int]:
        """Return by event how many more there are in a column of the counters since the start."""
        before = {name: row[column] for name, row in self._before.items()}
        fresh = {
            name: row[column] - before.get(name, 0)
            for name, row in counters.items()
            if name in self._concerned
        }
        return {name: count for name, count in fresh.items() if count > 0}

    def _await_daemon(self, client: Client) -> dict[str, dict[str, int]]:
        """Wait until all events that the kernel has counted are written, lost or suppressed.

        Returns the counters then.
        """
        counted = {name: row["seen"] for name, row in client.status()["counters"].items()}
        end = time.monotonic() + _DRAIN_MAX
        while True:
            rows = client.status()["counters"]
            behind = sum(
                max(0, seen - sum(rows[name][key] for key in ("written", "lost", "suppressed")))
                for name, seen in counted.items()
            )
            if not behind:
                break
            if time.monotonic() > end:
                self._missing.note(
                    f"the daemon was still {behind} events behind {_DRAIN_MAX} s after the end"
                )
                break
            time.sleep(0.02)
        counters: dict[str, dict[str, int]] = rows
        return counters

    def _note_rest(self) -> None:
        """Note what is not known at the end: the rest of a process, or whether a guest ran."""
        running, are_left = self.digest.running, command.has_descendants()
        if running:
            what = "still running at the end:" if are_left else "no end was seen of"
            self._missing.note_processes(what, *running)
        elif are_left:
            children = ", ".join(map(str, command.children())) or "not known"
            what = "native processes still ran at the end, and may start guests"
            self._missing.note(f"{what}: {children}")
        if not self.digest.processes:
            self._missing.note(_NO_GUEST)

    def _summary(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        about, digest = self._client.about, self.digest
        is_all = self._wanted >= set(self._known) - _OF_NO_PROCESS
        return {
            **keys_of("command", self._words),
            **keys_of("directory", os.getcwd()),
            **self._result,
            "complete": not self.missing,
            "missing": self.missing,
            "events": None if is_all else sorted(self._wanted),
            "counts": dict(sorted(digest.counts.items())),
            "processes": len(digest.processes),
            "running": digest.running,
            "bytes": dict(digest.bytes),
            "calls": dict(digest.calls),
            "captured_bytes": self._config["capture"]["bytes"],
            "version": about["version"],
            "boot_id": about["boot_id"],
            "host": text_of(os.uname().nodename),
            "kernel": os.uname().release,
        }

    def write(self, folder: Path, output: Path) -> str:
        """Write the files other than events.jsonl; returns the text of summary.txt.

        `output` is the name that the text has for the record. Raises OSError.
        """
        (folder / "summary.json").write_bytes(json_bytes(self._summary(), indent=True) + b"\n")
        words = list(map(text_of, self._words))
        run = summary.Run(words, self._result["exit"], self._seconds)
        text = "".join(summary.lines(self.digest, run, self.missing, text_of(str(output))))
        (folder / "summary.txt").write_text(text, encoding="utf-8")
        for name in ("tree", "files", "sockets"):
            with (folder / f"{name}.txt").open("w", encoding="utf-8") as file:
                file.writelines(getattr(self.digest, name)())
        return text


def _own_id(about: Mapping[str, Any], procfs: Path) -> int:
    """Return the process ID of this process as events have it. Raises QmondError.

    In another pid namespace, the daemon's greeting has it, or the host's procfs, where the daemon
    reads it. Otherwise the process itself knows better: a proxy may have connected for it.
    """
    if in_first_pid_namespace():
        return os.getpid()
    if found := about.get("pid") or own_id_in(procfs):
        return int(found)
    raise QmondError(_NOT_TOLD, hint=_NAMESPACE_HINT)


def _chosen(words: Collection[str] | None, known: Collection[str]) -> Collection[str]:
    """Return the events that words stand for; all for None. Raises QmondError."""
    try:
        return resolve(words or ["all"], known)
    except ValueError as error:
        raise ArgumentError(f"--event: {error}") from error


@contextmanager
def _slowly(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` if the body takes long."""
    timer = threading.Timer(_SLOW, tell)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
