"""Recording: runs a command, reads the lines of its process tree, and notes what is missing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import orjson

from qmond.client import Client
from qmond.ctl.connection import connect
from qmond.ctl.runs import command
from qmond.ctl.runs.commandtree import CommandTree
from qmond.ctl.runs.digest import Digest
from qmond.errors import ArgumentError, QmondError
from qmond.escape import json_bytes
from qmond.events.tree import NEEDED

__all__ = ["Recording"]

_STALL_MAX: Final = 60
"""Seconds without a line before the rest is given up: a client that lags waits for the log."""
_DRAIN_MAX: Final = 60
"""Seconds for the daemon to write all events that the kernel had counted."""
_OF_NO_PROCESS: Final = frozenset({"START", "END", "CLOCK", "DROPPED", "GAP"})
_LOSSES: Final = frozenset({"LOST", "SUPPRESSED", "DROPPED", "GAP"})
_REASONS_MAX: Final = 100


class Recording:
    """Runs a command once. `events` are the events to write, None for all of them.

    `words` are the command and its arguments, `path` is the daemon's socket or None. Raises
    QmondError if the daemon cannot be reached, or its configuration does not allow a recording.
    """

    def __init__(self, path: Path | None, words: list[str], events: frozenset[str] | None) -> None:
        if not command.in_first_pid_namespace():
            raise QmondError(
                "this is not the host's PID namespace, whose process IDs the events have",
                hint="run it outside the container, or in a container with --pid=host",
            )
        self.digest = Digest()
        self.missing: list[str] = []
        """The reasons why the record is not complete."""
        self.write_error: OSError | None = None
        """The error if the lines could not be written."""
        self._path = path
        self._words = words
        self._client = connect(path)
        try:
            self._config = self._client.config()
            self._known = {event["name"] for event in self._client.events()}
            self._wanted = self._wanted_events(events)
        except QmondError:
            self._client.close()
            raise
        self._tree = CommandTree(os.getpid())
        self._last = self._client.about.get("newest") or 0
        self._result: dict[str, Any] = {}
        self._has_ended = False

    def _wanted_events(self, events: frozenset[str] | None) -> frozenset[str]:
        if self._config["fields"] != "full":
            raise QmondError(
                "the daemon's configuration has `fields: original`: its lines lack needed keys",
                hint="set `fields: full`",
            )
        if unknown := sorted((events or frozenset()) - self._known):
            names = ", ".join(sorted(self._known - _OF_NO_PROCESS))
            raise ArgumentError(f"unknown: {', '.join(unknown)}", hint=f"known: {names}")
        wanted = (events or frozenset(self._known)) - _OF_NO_PROCESS
        enabled = frozenset(self._config["events"])
        if off := sorted(NEEDED - enabled):
            raise QmondError(
                f"the daemon's configuration switches {', '.join(off)} off, "
                "which are needed to follow the process tree",
                hint="add them to `events`",
            )
        if off := sorted((wanted | {"LOST"}) - enabled):
            self._note_missing(f"switched off in the daemon's configuration: {', '.join(off)}")
        return wanted

    def run(self, out: IO[bytes]) -> tuple[int, str]:
        """Run the command, and write the lines of its process tree to `out`.

        Returns the exit status, and the error if the command could not be started, or "".
        """
        lines = self._client.tail(from_seq=self._last + 1)
        with command.adopting_orphans(), command.holding_signals() as mask:
            reading = threading.Thread(target=self._read, args=(lines, out))
            began = _now()
            reading.start()
            try:
                status, error = command.run(self._words, mask)
                self._result = {"began": began, "ended": _now(), "exit": status}
                self._catch_up()
            finally:
                self._has_ended = True
                self._client.close()  # this ends the thread
                reading.join()
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
        if not self._has_ended:
            self._has_ended = True
            self._note_missing(f"{reason}; the last line was {self._last}")

    def _handle(self, line: bytes, out: IO[bytes]) -> None:
        event = orjson.loads(line)
        name = event.get("event") or event["evt"]
        seq = event["to_seq"] if name == "GAP" else event["seq"]
        if name not in _LOSSES and seq != self._last + 1:
            self._note_missing(f"lines {self._last + 1} to {seq - 1} were not received")
        if name != "DROPPED":  # it has the number of the next line
            self._last = seq
        is_in_tree = self._tree.has(event)
        if name in _LOSSES:
            self._note_loss(name, event)
        elif "evt" in event:
            self.digest.count(name, event["meta"].get("by_pid", {}))
        elif is_in_tree:
            self.digest.add(event)
            if event.get("redacted"):
                self._note_missing("content is left out, because this user may not see it")
            if name == "IO_URING":
                self._note_missing(
                    f"process {event['pid']} uses io_uring, whose I/O makes no system calls"
                )
            if name in self._wanted:
                out.write(line + b"\n")

    def _note_loss(self, name: str, event: dict[str, Any]) -> None:
        """Note a loss, unless it is known to be of other processes."""
        if name == "GAP":
            self._note_missing(
                f"lines {event['from_seq']} to {event['to_seq']} are no longer in the log"
            )
        elif name == "DROPPED":
            self._note_missing(
                f"DROPPED: {event['count']} lines, because this program was too slow"
            )
        else:
            is_others = name == "SUPPRESSED" and event["pid"] not in {-1, *self.digest.pids}
            lost = {key: n for key, n in event["by_event"].items() if key in self._wanted | NEEDED}
            if lost and not is_others:
                where = (
                    f"at the {event['stage']}, by all processes" if name == "LOST" else "by limits"
                )
                counts = ", ".join(f"{count} {key}" for key, count in sorted(lost.items()))
                self._note_missing(f"{name} {where}: {counts}")

    def _note_missing(self, reason: str) -> None:
        if reason not in self.missing and len(self.missing) < _REASONS_MAX:
            self.missing.append(reason)

    # ---- the end -------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Wait until all events up to now are in lines, and these lines are read."""
        try:
            with Client(self._path, timeout=_DRAIN_MAX) as client:
                self._await_daemon(client)
            with Client(self._path, timeout=_DRAIN_MAX) as client:
                newest = client.about.get("newest") or 0
        except QmondError as error:
            self._note_missing(f"the daemon could not be reached at the end: {error.args[0]}")
            return
        previous, since = self._last, time.monotonic()
        while self._last < newest and not self._has_ended:
            time.sleep(0.01)
            if self._last > previous:
                previous, since = self._last, time.monotonic()
            elif time.monotonic() - since > _STALL_MAX:
                break
        if self._last < newest:
            self._note_missing(
                f"lines {self._last + 1} to {newest} were not received in {_STALL_MAX} s"
            )

    def _await_daemon(self, client: Client) -> None:
        """Wait until all events that the kernel has counted are written, lost or suppressed."""
        counted = {name: row["seen"] for name, row in client.status()["counters"].items()}
        end = time.monotonic() + _DRAIN_MAX
        while True:
            rows = client.status()["counters"]
            behind = sum(
                max(0, seen - sum(rows[name][key] for key in ("written", "lost", "suppressed")))
                for name, seen in counted.items()
            )
            if not behind:
                return
            if time.monotonic() > end:
                self._note_missing(
                    f"the daemon was still {behind} events behind {_DRAIN_MAX} s after the end"
                )
                return
            time.sleep(0.02)

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        about, digest = self._client.about, self.digest
        is_all = self._wanted >= self._known - _OF_NO_PROCESS
        return {
            "command": self._words,
            "directory": os.getcwd(),
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
            "host": os.uname().nodename,
            "kernel": os.uname().release,
        }

    def write(self, folder: Path) -> None:
        """Write the files other than events.jsonl. Raises OSError."""
        (folder / "summary.json").write_bytes(json_bytes(self.summary(), indent=True) + b"\n")
        for name in ("tree", "files", "sockets"):
            with (folder / f"{name}.txt").open("w", encoding="utf-8") as file:
                file.writelines(getattr(self.digest, name)())


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
