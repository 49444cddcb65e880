"""List the watched processes.

For each: the guest's architecture; how it was started (direct, binfmt, or nested: by another
watched process); its age; its events in the last second and in all; whether malloc and free are
counted; what it runs.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from qmond.client import Client
from qmond.ctl.show.text import age, columns, json_text, printable

__all__ = ["add_arguments", "render", "run", "warn_of_cut", "what"]

_HEAD = ("PID", "PPID", "UID", "ARCH", "LAUNCH", "AGE", "EV/S", "EVENTS", "ALLOC", "GUEST")
_RIGHT = (0, 1, 2, 5, 6, 7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--json", action="store_true", help="the daemon's answer, unchanged")


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    with Client(options.socket) as client:
        processes = client.ps()
        warn_of_cut(client)
    sys.stdout.write(json_text(processes) if options.json else render(processes))
    return 0


def warn_of_cut(client: Client) -> None:
    """Say so where there are more processes than an answer has room for."""
    if client.truncated:
        sys.stderr.write("qmonctl: there are more processes than an answer has room for\n")


def what(process: dict[str, Any]) -> str:
    """Return what a process runs, and in which container."""
    inside = f" [{process['container'][:12]}]" if process["container"] else ""
    return printable((process["guest"] or process["bin"]) + inside)


def render(processes: list[dict[str, Any]]) -> str:
    """Return the list as a person reads it."""
    rows = [
        (
            str(process["pid"]),
            str(process["ppid"]),
            str(process["uid"]),
            process["arch"] or "native",
            process["launch"],
            age(process["age"]),
            str(process["rate"]),
            str(process["events"]),
            process["allocations"],
            what(process),
        )
        for process in sorted(processes, key=lambda process: process["start"])
    ]
    return columns([_HEAD, *rows], _RIGHT)
