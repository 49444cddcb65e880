"""Print events, as they happen or from the log.

qmonctl tail                                   everything, from now on
qmonctl tail --event READ,WRITE                content that guests read and wrote
qmonctl tail --not-event SCHED_SWITCH --last 20
qmonctl tail --tree 4711 --strace              a process and its descendants, as strace prints
qmonctl tail --since 5m --no-follow --guest '*/busybox'
qmonctl tail --where 'fd == 0 && buf.contains("passwd")'
qmonctl tail --follow=retry | shipper          continues after a restart of the daemon
qmonctl tail | jq 'select(.arch=="arm")'

On a terminal, a line is shortened for people. In a pipe, it is JSON, as in the log. --where takes a
CEL expression over the keys of a line: see docs/events.md, or `qmonctl events`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from qmond.client import Choice, Client, follow
from qmond.ctl.show import render, strace
from qmond.errors import QmondError

__all__ = ["add_arguments", "events_of", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    which = parser.add_argument_group("which events")
    for option, meaning in (("--event", "only"), ("--not-event", "all except")):
        which.add_argument(
            option,
            action="append",
            metavar="NAME",
            help=f"{meaning} these; a list, or several times",
        )
    which.add_argument(
        "--pid",
        action="append",
        type=int,
        metavar="PID",
        help="only this process; may be given several times",
    )
    which.add_argument("--tree", type=int, metavar="PID", help="a process and all its descendants")
    which.add_argument(
        "--arch", action="append", metavar="NAME", help="only guests of this architecture"
    )
    which.add_argument("--guest", metavar="GLOB", help="only guests with such a path")
    which.add_argument("--where", metavar="CEL", help="only lines for which this is true")
    when = parser.add_argument_group("when").add_mutually_exclusive_group()
    when.add_argument(
        "--last", type=_count, metavar="COUNT", help="begin with the last so many events"
    )
    when.add_argument(
        "--since",
        metavar="WHEN",
        help="begin at a time: 2026-11-23T08:30:00Z, or 5m for 5 minutes ago",
    )
    when.add_argument(
        "--from-seq", type=int, metavar="SEQ", help="begin with the line of this number"
    )
    parser.add_argument("-n", type=_count, metavar="COUNT", help="end after so many events")
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--no-follow", action="store_true", help="end when all past events are printed"
    )
    end.add_argument(
        "--follow",
        choices=("once", "retry"),
        default="once",
        help="retry: reconnect when the daemon restarts, and miss nothing (default: once)",
    )
    form = parser.add_argument_group("how they look")
    form.add_argument("--json", action="store_true", help="JSON, as in a pipe")
    form.add_argument("--strace", action="store_true", help="as strace prints calls")
    form.add_argument(
        "--fields",
        action="append",
        metavar="KEYS",
        help="only these keys; a list, or several times",
    )
    form.add_argument("--color", choices=("auto", "always", "never"), default="auto")


def run(options: argparse.Namespace) -> int:
    """Print until the daemon ends, the count is reached, or the reader has enough."""
    lines = _retrying(options) if options.follow == "retry" else _once(options)
    show = _shower(options)
    out = sys.stdout.buffer
    for line in islice(lines, options.n):
        out.write(show(line) + b"\n")
        out.flush()
    return 0


def _once(options: argparse.Namespace) -> Iterator[bytes]:
    with Client(options.socket) as client:
        yield from client.tail(**_choice(options, client))


def _retrying(options: argparse.Namespace) -> Iterator[bytes]:
    fields = _listed(options.fields)
    if fields and "seq" not in fields:
        raise QmondError("--follow=retry needs to know where it was: add seq to --fields")

    def tell(error: QmondError) -> None:
        sys.stderr.write(f"qmonctl: {str(error).splitlines()[0]}; trying again\n")

    # the events in force may be others, when it is back
    return follow(options.socket, choose=partial(_choice, options), on_retry=tell)


def events_of(
    wanted: list[str] | None, unwanted: list[str] | None, client: Client
) -> list[str] | None:
    """Return the events to ask for; None for all of them."""
    names = [name.upper() for name in _listed(wanted) or ()] or None
    if not unwanted:
        return names
    without = {name.upper() for name in _listed(unwanted) or ()}
    known = [event["name"] for event in client.events()]
    if wrong := sorted(without - set(known)):
        raise QmondError(f"--not-event: unknown: {', '.join(wrong)}", hint="`qmonctl events`")
    off = set(known) - set(client.config()["events"])
    return [name for name in names or known if name not in without | off]


def _choice(options: argparse.Namespace, client: Client) -> Choice:
    return {
        "events": events_of(options.event, options.not_event, client),
        "pids": options.pid,
        "tree": options.tree,
        "arch": _listed(options.arch),
        "guest": options.guest,
        "where": options.where,
        "fields": _listed(options.fields),
        "from_seq": options.from_seq,
        "since": options.since,
        "last": options.last,
        "follow": not options.no_follow,
    }


def _listed(values: list[str] | None) -> list[str] | None:
    return [item for value in values for item in value.split(",")] if values else None


def _shower(options: argparse.Namespace) -> Callable[[bytes], bytes]:
    if options.strace:
        return lambda line: strace.line(json.loads(line)).encode()
    terminal = sys.stdout.isatty()
    if options.json or not (terminal or options.color == "always"):
        return lambda line: line
    plain = "NO_COLOR" in os.environ  # no-color.org
    colour = options.color == "always" or (options.color == "auto" and terminal and not plain)

    def show(line: bytes) -> bytes:
        width = shutil.get_terminal_size().columns if terminal else None
        return render.line(json.loads(line), width=width, colour=colour).encode()

    return show


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError
    return count
