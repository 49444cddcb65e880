"""One run of a command, the lines of its process tree, and whether these are all."""

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
from qmond.ctl.runs import command
from qmond.ctl.runs.digest import Digest
from qmond.ctl.runs.family import Family
from qmond.errors import QmondError
from qmond.escape import json_bytes
from qmond.events.tree import NEEDED

__all__ = ["Recording"]

_PATIENCE: Final = 60
"""Seconds without any line, while there are more: a reader that lags looks through the log."""
_MORE_TIME: Final = 60
"""Seconds for the daemon to get through what it has seen."""
_NOBODYS: Final = frozenset({"START", "END", "CLOCK", "DROPPED", "GAP"})
_LOSSES: Final = frozenset({"LOST", "SUPPRESSED", "DROPPED", "GAP"})
_REASONS_MAX: Final = 100


class Recording:
    """Runs a command once; `events` are those that are wanted, None for all.

    Raises QmondError where its lines cannot be had.
    """

    def __init__(self, path: Path | None, words: list[str], events: frozenset[str] | None) -> None:
        if not command.in_first_pid_namespace():
            raise QmondError(
                "process IDs are others in this pid namespace than in events",
                hint="run it outside of the container, or in one with --pid=host",
            )
        self.digest = Digest()
        self.missing: list[str] = []
        """Why the record is not complete."""
        self.fault: OSError | None = None
        """What went wrong as the lines were written."""
        self._path = path
        self._words = words
        self._client = Client(path)
        try:
            self._config = self._client.config()
            self._known = {event["name"] for event in self._client.events()}
            self._wanted = self._choose(events)
        except QmondError:
            self._client.close()
            raise
        self._family = Family(os.getpid())
        self._last = self._client.about.get("newest") or 0
        self._about: dict[str, Any] = {}
        self._is_over = False

    def _choose(self, events: frozenset[str] | None) -> frozenset[str]:
        if self._config["fields"] != "full":
            raise QmondError(
                "the daemon's configuration has `fields: original`: its lines tell too little",
                hint="set `fields: full`",
            )
        if unknown := sorted((events or frozenset()) - self._known):
            names = ", ".join(sorted(self._known - _NOBODYS))
            raise QmondError(f"unknown: {', '.join(unknown)}", hint=f"there are {names}")
        wanted = (events or frozenset(self._known)) - _NOBODYS
        there = frozenset(self._config["events"])
        if off := sorted(NEEDED - there):
            raise QmondError(
                f"the daemon's configuration switches {', '.join(off)} off: "
                "whose an event is cannot be told without",
                hint="add them to `events`",
            )
        if off := sorted((wanted | {"LOST"}) - there):
            self._miss(f"switched off in the daemon's configuration: {', '.join(off)}")
        return wanted

    def run(self, out: IO[bytes]) -> tuple[int, str]:
        """Run the command, and write its lines; returns its status, and why it could not be run."""
        lines = self._client.tail(from_seq=self._last + 1)
        with command.adopting_orphans(), command.holding_signals() as mask:
            reading = threading.Thread(target=self._read, args=(lines, out))
            began = _now()
            reading.start()
            try:
                status, why = command.run(self._words, mask)
                self._about = {"began": began, "ended": _now(), "exit": status}
                self._catch_up()
            finally:
                self._is_over = True
                self._client.close()  # that ends the thread
                reading.join()
        return status, why

    def _read(self, lines: Iterator[bytes], out: IO[bytes]) -> None:
        try:
            for line in lines:
                self._take(line, out)
            reason = "the daemon stopped"
        except (QmondError, ValueError) as error:  # ValueError: it was closed
            reason = f"the connection to the daemon broke: {error}"
        except OSError as error:
            self.fault, reason = error, "the lines could not be written"
        if not self._is_over:
            self._is_over = True
            self._miss(f"{reason}; the last line was {self._last}")

    def _take(self, line: bytes, out: IO[bytes]) -> None:
        event = orjson.loads(line)
        name = event.get("event") or event["evt"]
        seq = event["to_seq"] if name == "GAP" else event["seq"]
        if name not in _LOSSES and seq != self._last + 1:
            self._miss(f"lines {self._last + 1} to {seq - 1} did not come")
        if name != "DROPPED":  # that one has the next line's number
            self._last = seq
        ours = self._family.has(event)
        if name in _LOSSES:
            self._lose(name, event)
        elif "evt" in event:
            self.digest.count(name, event["meta"].get("by_pid", {}))
        elif ours:
            self.digest.add(event)
            if event.get("redacted"):
                self._miss("what was read and written is left out: this user may not see it")
            if name == "IO_URING":
                self._miss(f"{event['pid']} uses io_uring: what it does so is no system call")
            if name in self._wanted:
                out.write(line + b"\n")

    def _lose(self, name: str, event: dict[str, Any]) -> None:
        """Take note of a loss, unless it is that of others."""
        if name == "GAP":
            self._miss(f"lines {event['from_seq']} to {event['to_seq']} are gone from the log")
        elif name == "DROPPED":
            self._miss(f"DROPPED: {event['count']} lines, as this program was too slow")
        else:
            others = name == "SUPPRESSED" and event["pid"] not in {-1, *self.digest.pids}
            lost = {key: n for key, n in event["by_event"].items() if key in self._wanted | NEEDED}
            if lost and not others:
                where = (
                    f"at the {event['stage']}, of all processes" if name == "LOST" else "by limits"
                )
                counts = ", ".join(f"{count} {key}" for key, count in sorted(lost.items()))
                self._miss(f"{name} {where}: {counts}")

    def _miss(self, reason: str) -> None:
        if reason not in self.missing and len(self.missing) < _REASONS_MAX:
            self.missing.append(reason)

    # ---- the end -------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Wait until the daemon has told all that it has seen by now, and all of it is read."""
        try:
            with Client(self._path) as asking:
                self._await_daemon(asking)
            with Client(self._path) as asking:
                newest = asking.about.get("newest") or 0
        except QmondError as error:
            self._miss(f"the daemon was gone at the end: {error.args[0]}")
            return
        seen, since = self._last, time.monotonic()
        while self._last < newest and not self._is_over:
            time.sleep(0.01)
            if self._last > seen:
                seen, since = self._last, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                break
        if self._last < newest:
            self._miss(f"lines {self._last + 1} to {newest} did not come in {_PATIENCE} s")

    def _await_daemon(self, asking: Client) -> None:
        """Wait until what the kernel side has counted by now is written, lost or suppressed."""
        aim = {name: row["seen"] for name, row in asking.status()["counters"].items()}
        end = time.monotonic() + _MORE_TIME
        while True:
            rows = asking.status()["counters"]
            behind = sum(
                max(0, seen - sum(rows[name][key] for key in ("written", "lost", "suppressed")))
                for name, seen in aim.items()
            )
            if not behind:
                return
            if time.monotonic() > end:
                self._miss(f"the daemon was {behind} events behind, {_MORE_TIME} s after the end")
                return
            time.sleep(0.02)

    def summary(self) -> dict[str, Any]:
        """Return what is known of the run as a whole."""
        about, digest = self._client.about, self.digest
        return {
            "command": self._words,
            "directory": os.getcwd(),
            **self._about,
            "complete": not self.missing,
            "missing": self.missing,
            "events": None if self._wanted >= self._known - _NOBODYS else sorted(self._wanted),
            "counts": dict(sorted(digest.counts.items())),
            "processes": len(digest.lives),
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
        """Write what is beside the events. Raises OSError."""
        (folder / "summary.json").write_bytes(json_bytes(self.summary(), indent=True) + b"\n")
        for name in ("tree", "files", "sockets"):
            with (folder / f"{name}.txt").open("w", encoding="utf-8") as file:
                file.writelines(getattr(self.digest, name)())


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
