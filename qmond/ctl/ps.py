"""List the watched processes.

For each: the guest's architecture; how it was started (direct, binfmt, or nested: by another
watched process); its age; its events in the last second and in all; whether malloc and free are
counted; the program, with the beginning of its container's ID.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from qmond.client import Client
from qmond.ctl.connection import connect
from qmond.ctl.show.text import age, columns, print_json, printable

__all__ = ["add_arguments", "program", "render", "run", "warn_if_truncated"]

_HEAD = ("PID", "PPID", "UID", "ARCH", "LAUNCH", "AGE", "EV/S", "EVENTS", "ALLOC", "GUEST")
_RIGHT = (0, 1, 2, 5, 6, 7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="the daemon's answer, unchanged")


def run(options: argparse.Namespace) -> int:
    """Print the list."""
    with connect(options.socket) as client:
        processes = client.ps()
        warn_if_truncated(client)
    if options.json:
        print_json(processes)
    else:
        sys.stdout.write(render(processes))
    return 0


def warn_if_truncated(client: Client) -> None:
    """Warn on standard error if the daemon cut its answer."""
    if client.truncated:
        sys.stderr.write("qmonctl: not all processes are shown: the daemon's answer was too long\n")


def program(process: dict[str, Any]) -> str:
    """Return the program that a process runs, and its container."""
    container = f" [{process['container'][:12]}]" if process["container"] else ""
    return printable((process["guest"] or process["bin"]) + container)


def render(processes: list[dict[str, Any]]) -> str:
    """Return the list as a table."""
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
            program(process),
        )
        for process in sorted(processes, key=lambda process: process["start"])
    ]
    return columns([_HEAD, *rows], _RIGHT)
