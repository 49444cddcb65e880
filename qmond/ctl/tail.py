"""Print events, as they happen or from the log.

qmonctl tail                                   everything, from now on
qmonctl tail --event READ,WRITE                content that guests read and wrote
qmonctl tail --not-event SCHED_SWITCH --last 20
qmonctl tail --tree 4711 --strace              a process and its descendants, as strace prints
qmonctl tail --since 5m --no-follow --guest '*/busybox'
qmonctl tail --where 'fd == 0 && buf.contains("passwd")'
qmonctl tail --follow=retry | shipper          continues after a restart of the daemon
qmonctl tail | jq 'select(.arch=="arm")'

On a terminal, lines are formatted for people, and cut to its width. In a pipe, they are JSON, as in
the log. --where takes a CEL expression over the keys of a line: see `qmonctl events`.
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
from qmond.ctl.connection import ANSWER_MAX, connect
from qmond.ctl.show import render, strace
from qmond.errors import ArgumentError, QmondError

__all__ = ["add_arguments", "event_names", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    which = parser.add_argument_group("which events")
    for option, meaning in (("--event", "only"), ("--not-event", "all except")):
        which.add_argument(
            option,
            action="append",
            metavar="NAME",
            help=f"{meaning} these events: a comma-separated list, or several times",
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
        "--arch",
        action="append",
        metavar="NAME",
        help="only guests of these architectures: a comma-separated list, or several times",
    )
    which.add_argument(
        "--guest", metavar="GLOB", help="only guests whose path matches, such as */sh"
    )
    which.add_argument("--where", metavar="CEL", help="only lines for which this is true")
    when = parser.add_argument_group("when").add_mutually_exclusive_group()
    when.add_argument(
        "--last", type=_count, metavar="COUNT", help="begin with this many past events"
    )
    when.add_argument(
        "--since",
        metavar="WHEN",
        help="begin at a time: 2026-11-23T08:30:00Z, or 5m for 5 minutes ago",
    )
    when.add_argument(
        "--from-seq", type=int, metavar="SEQ", help="begin with the line that has this number"
    )
    parser.add_argument("-n", type=_count, metavar="COUNT", help="end after this many events")
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
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON, as in a pipe")
    output.add_argument("--strace", action="store_true", help="print calls as strace does")
    output.add_argument(
        "--fields",
        action="append",
        metavar="KEYS",
        help="print only these keys: a comma-separated list, or several times",
    )
    output.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: colours on a terminal, unless $NO_COLOR is set (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Print lines until the daemon stops, or -n is reached."""
    lines = _retrying(options) if options.follow == "retry" else _once(options)
    formatted = _formatter(options)
    out = sys.stdout.buffer
    for line in islice(lines, options.n):
        out.write(formatted(line) + b"\n")
        out.flush()
    return 0


def _once(options: argparse.Namespace) -> Iterator[bytes]:
    with connect(options.socket) as client:
        yield from client.tail(**_choice(options, client))


def _retrying(options: argparse.Namespace) -> Iterator[bytes]:
    fields = _split(options.fields)
    if fields and "seq" not in fields:
        raise ArgumentError("--follow=retry needs the number of each line: add seq to --fields")

    def report(error: QmondError) -> None:
        sys.stderr.write(f"qmonctl: {str(error).splitlines()[0]}; trying again\n")

    # _choice is called after each connect: the daemon may have another configuration
    choose = partial(_choice, options)
    return follow(options.socket, choose=choose, on_retry=report, timeout=ANSWER_MAX)


def event_names(values: list[str] | None) -> list[str] | None:
    """Return the names of events in the values of an option, in upper case."""
    return [name.upper() for name in _split(values) or ()] or None


def _events(options: argparse.Namespace, client: Client) -> list[str] | None:
    """Return the events to request; None for all of them."""
    included = event_names(options.event)
    excluded = set(event_names(options.not_event) or ())
    if not excluded:
        return included
    known = [event["name"] for event in client.events()]
    if unknown := sorted(excluded - set(known)):
        hint = "`qmonctl events` lists all"
        raise ArgumentError(f"--not-event: unknown: {', '.join(unknown)}", hint=hint)
    off = set(known) - set(client.config()["events"])
    return [name for name in included or known if name not in excluded | off]


def _choice(options: argparse.Namespace, client: Client) -> Choice:
    return {
        "events": _events(options, client),
        "pids": options.pid,
        "tree": options.tree,
        "arch": _split(options.arch),
        "guest": options.guest,
        "where": options.where,
        "fields": _split(options.fields),
        "from_seq": options.from_seq,
        "since": options.since,
        "last": options.last,
        "follow": not options.no_follow,
    }


def _split(values: list[str] | None) -> list[str] | None:
    return [item for value in values for item in value.split(",")] if values else None


def _formatter(options: argparse.Namespace) -> Callable[[bytes], bytes]:
    if options.strace:
        return lambda line: strace.line(json.loads(line)).encode()
    terminal = sys.stdout.isatty()
    if options.json or not (terminal or options.color == "always"):
        return lambda line: line
    no_color = "NO_COLOR" in os.environ  # no-color.org
    colour = options.color == "always" or (options.color == "auto" and terminal and not no_color)

    def formatted(line: bytes) -> bytes:
        width = shutil.get_terminal_size().columns if terminal else None
        return render.line(json.loads(line), width=width, colour=colour).encode()

    return formatted


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)
