"""Print events as they happen, a line of JSON each.

qmonctl tail --event READ,WRITE        content that guests read and wrote
qmonctl tail --pid 4711 -n 100         the next 100 events of one process
qmonctl tail | jq 'select(.arch=="arm")'
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice

from qmond.client import Client

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--event",
        action="append",
        metavar="NAME",
        help="only events of this type; a list, or repeated",
    )
    parser.add_argument(
        "--pid", action="append", type=int, metavar="PID", help="only this process; may be repeated"
    )
    parser.add_argument("-n", type=_count, metavar="COUNT", help="end after so many events")


def run(options: argparse.Namespace) -> int:
    """Print until the daemon ends, the count is reached, or the reader has enough."""
    events = [name.upper() for names in options.event or () for name in names.split(",")] or None
    with Client(options.socket) as client:
        out = sys.stdout.buffer
        for line in islice(client.tail(events=events, pids=options.pid), options.n):
            out.write(line + b"\n")
            out.flush()
    return 0


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError
    return count
