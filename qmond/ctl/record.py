"""Run a command under watch, and write down all that it and its descendants did.

qmonctl record -- ./firmware-test               into qmond-record-20261123T083452/
qmonctl record -o run1 -- sh -c 'make check'
qmonctl record -o run2 -- qemu-arm-static ./sample

The folder gets events.jsonl (every line of the command's tree), summary.json (the command, how it
ended, counts, and whether the record is complete, or why not), tree.txt, files.txt and sockets.txt.

Exit status: the command's; 128 and the signal's number where one ended it; 127 where there is no
such command, 126 where it cannot be executed, 125 where qmonctl failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from qmond.client import Client
from qmond.ctl.text import printable
from qmond.errors import QmondError

__all__ = ["Record", "add_arguments", "run"]

_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127  # as env(1) has them
_SETTLE: Final = 0.3
"""Seconds until what has happened is in the log."""
_PATIENCE: Final = 30
"""Seconds without any line, while there are more to come."""
_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP)
_TELL_OF_LOSS: Final = ("LOST", "SUPPRESSED", "DROPPED", "GAP")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="a folder that is not there"
    )
    parser.add_argument("command", nargs="+", metavar="CMD", help="after --, with its arguments")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    folder = options.output or Path(f"qmond-record-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    try:
        with Client(options.socket) as client:
            record = Record(client, options.command)
            folder.mkdir(parents=True)
            status = record.run(folder / "events.jsonl", options.socket)
            record.write(folder)
    except OSError as error:
        sys.stderr.write(f"qmonctl: {error.filename or folder}: {error.strerror}\n")
        return _FAILED
    except QmondError as error:
        sys.stderr.write(f"qmonctl: {error}\n")
        return _FAILED
    verdict = "complete" if record.is_complete else "NOT COMPLETE: " + "; ".join(record.reasons)
    sys.stderr.write(f"qmonctl: {folder}: {sum(record.counts.values())} events, {verdict}\n")
    return status


class Record:
    """One run of a command, and what is known of it. Raises QmondError where it cannot be had."""

    def __init__(self, client: Client, command: list[str]) -> None:
        self.command = command
        self.counts: Counter[str] = Counter()
        self.reasons: list[str] = []
        self.processes: dict[int, dict[str, Any]] = {}
        self._client = client
        self._config = client.config()
        if self._config["fields"] != "full":
            raise QmondError("the daemon has `fields: original`: its lines have no numbers")
        all_events = {event["name"] for event in client.events()} - {"DROPPED", "GAP"}
        if off := sorted(all_events - set(self._config["events"])):
            self.reasons.append(f"switched off: {', '.join(off)}")
        self._files: dict[str, Counter[int]] = {}
        self._sockets: dict[str, Counter[int]] = {}
        self._about: dict[str, Any] = {}
        self._last = 0
        self._broken = ""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.reasons

    def run(self, events: Path, path: Path | None) -> int:
        """Run the command, and write its lines to a file; returns its exit status."""
        from qmond.filters import Filter  # noqa: PLC0415 - only here
        from qmond.protocol import EVERYTHING, Selection  # noqa: PLC0415

        pid, begin = _prepare(self.command)
        self._last = self._client.about["newest"]
        lines = self._client.tail(from_seq=self._last + 1)
        chosen = Filter(Selection(mask=EVERYTHING.mask, tree=pid))
        self._about = {"pid": pid, "start": _now()}
        with events.open("xb") as out:
            reading = threading.Thread(target=self._read, args=(lines, chosen, out))
            reading.start()
            try:
                status = self._await(pid, begin())
                self._catch_up(path)
            finally:
                self._client.close()  # that ends the thread
                reading.join()
        return status

    def _read(
        self, lines: Iterator[bytes], chosen: Callable[[bytes], object], out: IO[bytes]
    ) -> None:
        try:
            for line in lines:
                values = json.loads(line)
                if chosen(line + b"\n") is not None:
                    out.write(line + b"\n")
                    self._note(values)
                elif values.get("event") in _TELL_OF_LOSS:
                    self._note(values)
                self._last = values.get("to_seq", values.get("seq", self._last))
        except (QmondError, OSError, ValueError) as error:  # the last two: it was closed
            self._broken = str(error)

    def _catch_up(self, path: Path | None) -> None:
        """Wait until all lines are read that there are now, as long as any come."""
        time.sleep(_SETTLE)
        with Client(path) as asking:
            newest = asking.about["newest"]
        seen, since = self._last, time.monotonic()
        while self._last < newest and not self._broken:
            time.sleep(0.02)
            if self._last > seen:
                seen, since = self._last, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                break
        if self._last < newest:
            self.reasons.append(f"the daemon's lines from {self._last + 1} on did not come")

    def _await(self, pid: int, failed: int) -> int:
        with _forwarding(pid):
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        code = failed or (128 - code if code < 0 else code)
        self._about |= {"end": _now(), "exit": code}
        return code

    def _note(self, event: dict[str, Any]) -> None:
        """Take note of what a line tells."""
        name = str(event.get("event") or event.get("evt"))
        self.counts[name] += 1
        pid = event.get("pid", -1)
        if name in _TELL_OF_LOSS:
            what = {
                key: event[key] for key in event if key in {"stage", "count", "by_event", "pid"}
            }
            self.reasons.append(f"{name} {json.dumps(what or {'lines': 'gone from the log'})}")
        elif name == "TRACK_ADOPT":
            known = self.processes.setdefault(pid, {"above": event["ppid"], "programs": []})
            known["programs"].append(event["argv"] or [event["bin"]])
            known["above"] = next(
                (row["pid"] for row in event["parents"] if row["pid"] in self.processes),
                known["above"],
            )
        elif name == "TRACK_FORK":
            self.processes[event["child"]] = {"above": event["parent"], "programs": []}
        elif name == "EXIT" and pid in self.processes:
            self.processes[pid]["end"] = (
                f"exit {event['code']}" if event["signal"] is None else f"signal {event['signal']}"
            )
        elif name == "TRACK_OPENAT":
            self._files.setdefault(event["file"], Counter())[pid] += 1
        elif name == "CONNECT":
            self._sockets.setdefault(event["addr"], Counter())[pid] += 1

    def write(self, folder: Path) -> None:
        """Write what is beside the events. Raises OSError."""
        about = self._client.about
        summary = {
            "command": self.command,
            **self._about,
            "complete": self.is_complete,
            "missing": self.reasons,
            "processes": len(self.processes),
            "counts": dict(sorted(self.counts.items())),
            "version": about["version"],
            "boot_id": about["boot_id"],
            "host": os.uname().nodename,
            "kernel": os.uname().release,
            "captured_bytes": self._config["capture"]["bytes"],
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (folder / "tree.txt").write_text("".join(self._tree()))
        for name, found in (("files", self._files), ("sockets", self._sockets)):
            rows = [
                f"{count:7} {pid:>7} {printable(text)}\n"
                for text in sorted(found)
                for pid, count in found[text].items()
            ]
            (folder / f"{name}.txt").write_text("".join(rows))

    def _tree(self) -> Iterator[str]:
        """Yield the processes, each below the one that it comes from."""
        below: dict[int, list[int]] = {}
        for pid, process in self.processes.items():
            known = process["above"] in self.processes and process["above"] != pid
            below.setdefault(process["above"] if known else 0, []).append(pid)
        stack = [(pid, 0) for pid in reversed(below.get(0, []))]
        while stack:
            pid, depth = stack.pop()
            process = self.processes[pid]
            ran = " then ".join(printable(" ".join(argv)) for argv in process["programs"])
            end = process.get("end", "lives on")
            yield f"{'  ' * depth}{pid} {ran or '(as its parent)'}: {end}\n"
            stack += [(child, depth + 1) for child in reversed(below.get(pid, []))]


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _prepare(command: list[str]) -> tuple[int, Any]:
    """Fork a child that waits; returns it, and what lets it execute the command.

    That returns 0, or the exit status where it cannot be executed.
    """
    go_read, go_write = os.pipe()
    failed_read, failed_write = os.pipe()
    pid = os.fork()
    if pid == 0:  # nothing here may come back
        try:
            os.close(go_write)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
            os.read(go_read, 1) or os._exit(_FAILED)
            os.execvp(command[0], command)  # noqa: S606 - the user's own command
        except OSError as error:
            os.write(failed_write, str(error.errno).encode())
            sys.stderr.write(f"qmonctl: {command[0]}: {error.strerror}\n")
        finally:
            os._exit(_FAILED)
    os.close(go_read)
    os.close(failed_write)

    def begin() -> int:
        os.write(go_write, b"x")
        os.close(go_write)
        with os.fdopen(failed_read, "rb") as file:
            found = file.read()
        if not found:
            return 0
        return _NOT_FOUND if int(found) == 2 else _NOT_EXECUTABLE  # ENOENT

    return pid, begin


@contextmanager
def _forwarding(pid: int) -> Iterator[None]:
    """Pass signals on to the command; those of the terminal reach it anyway."""
    before = {
        number: signal.signal(number, lambda got, _: os.kill(pid, got)) for number in _FORWARDED
    }
    before |= {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
