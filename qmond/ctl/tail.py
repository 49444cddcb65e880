"""Print events, as they happen or from the log.

qmonctl tail                                   everything, from now on
qmonctl tail -n 20 --event file,net            the last 20 lines of these groups, then on
qmonctl tail --event READ,WRITE                content that guests read and wrote
qmonctl tail --not-event SCHED_SWITCH -c 100   ends after 100 lines
qmonctl tail --tree 4711 -o strace             a process and its descendants, as strace prints
qmonctl tail --since 11:56 --until 11:58:30    a time that tail has printed can be given back
qmonctl tail --since 5m --no-follow --guest '*/busybox'
qmonctl tail --where 'fd == 0 && buf.contains("passwd")'
qmonctl tail --follow=retry | shipper          continues after a restart of the daemon
qmonctl tail | jq 'select(.arch=="arm")'

On a terminal, lines are formatted for people, and cut to its width. SCHED_SWITCH, which would be
most of them, is left out there unless --event asks for it, by its name or by a group's. In a pipe,
lines are JSON, as in the log. --where takes a CEL expression over the keys of a line: see
`qmonctl events`.

A time is 11:56 or 11:56:03.5, 2026-11-23 or '2026-11-23 08:30', 2026-11-23T08:30:00Z, @1700000000,
now, today, yesterday, or an age: 5m, 1h30m, '2d ago'; +5m is to come. A time of day is of today;
after --since, one that is to come is of yesterday. At 08:00, 22:00 to 23:00 is last evening.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from qmond.client import Choice, Client
from qmond.ctl.commandline import listed, utf8
from qmond.ctl.following import once, retrying
from qmond.ctl.interrupts import end_with_reader
from qmond.ctl.show.printing import FORMS, Short, TerminalWidth, printer
from qmond.ctl.show.text import complaint, pointed
from qmond.ctl.waiting import remark
from qmond.ctl.when import is_time_of_day, parse_when, rfc3339
from qmond.errors import ArgumentError, RequestError

__all__ = ["add_arguments", "run"]

_LINES: Final = 10
"""How many lines of the past, where nothing else is asked for: as tail(1)."""
_LAST_MAX: Final = 100_000
"""How many the daemon gives."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    _add_choice(parser.add_argument_group("which events"))
    _add_times(parser.add_argument_group("when"))
    _add_output(parser.add_argument_group("output"))


def _add_choice(which: argparse._ArgumentGroup) -> None:
    which.add_argument(
        "--event",
        action="append",
        metavar="NAME",
        help="only these events or groups: a comma-separated list, or several times; "
        "-NAME leaves one out: --event=-SCHED_SWITCH",
    )
    which.add_argument(
        "--not-event",
        action="append",
        metavar="NAME",
        help="all except these: a comma-separated list, or several times",
    )
    which.add_argument(
        "--pid",
        action="append",
        type=_pid,
        metavar="PID",
        help="only this process; may be given several times",
    )
    which.add_argument("--tree", type=_pid, metavar="PID", help="a process and all its descendants")
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


def _add_times(when: argparse._ArgumentGroup) -> None:
    start = when.add_mutually_exclusive_group()
    start.add_argument(
        "-n",
        "--lines",
        "--last",
        dest="last",
        type=_last,
        metavar="N",
        help=f"begin with the last N lines, at most {_LAST_MAX:,}",
    )
    start.add_argument(
        "--since",
        metavar="WHEN",
        help="begin at a time, such as 11:56, 2026-11-23T08:30:00Z, or 5m for 5 minutes ago",
    )
    start.add_argument(
        "--from-seq", type=int, metavar="SEQ", help="begin with the line that has this number"
    )
    when.add_argument("--until", metavar="WHEN", help="end at a time, which may be to come")
    when.add_argument("-c", "--count", type=_count, metavar="N", help="end after N lines")
    when.add_argument("-f", action="store_true", help="wait for new lines, the default")
    end = when.add_mutually_exclusive_group()
    end.add_argument(
        "--no-follow",
        action="store_true",
        help="end when all past lines are printed: the last 10, if no other start is given",
    )
    end.add_argument(
        "--follow",
        nargs="?",
        choices=("once", "retry"),
        const="once",
        help="retry: reconnect when the daemon restarts, and miss nothing (default: once)",
    )


def _add_output(output: argparse._ArgumentGroup) -> None:
    form = output.add_mutually_exclusive_group()
    form.add_argument(
        "-o",
        "--output",
        choices=FORMS,
        help="short: for people, the default on a terminal; json: as in the log, the default in a "
        "pipe; strace: as strace prints; cat: only the event and its values, for diff",
    )
    for name in ("json", "strace"):
        form.add_argument(
            f"--{name}", action="store_const", const=name, dest="output", help=f"-o {name}"
        )
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
        help="colours of -o short; auto: on a terminal, unless $NO_COLOR is set "
        "(default: %(default)s)",
    )
    output.add_argument("--no-trunc", action="store_true", help="do not cut lines")
    output.add_argument("--utc", action="store_true", help="show times in UTC, and take them so")


class _Times(NamedTuple):
    """The times of one run. `zone` is None for the system's."""

    now: datetime
    zone: tzinfo | None
    since: datetime | None
    until: datetime | None


def run(options: argparse.Namespace) -> int:
    """Print lines until --until or --count; raises QmondError if the daemon goes before."""
    if options.f and options.no_follow:
        raise ArgumentError("argument -f: not allowed with argument --no-follow")
    times, terminal = _times(options), sys.stdout.isatty()
    form = options.output or ("short" if terminal else "json")
    choice = _choice(options, times, switches=not (terminal and form == "short"))
    if form == "strace" and choice["fields"] and not {"event", "evt"} & {*choice["fields"]}:
        raise ArgumentError("-o strace needs the name of each event: add event to --fields")
    begin = retrying if options.follow == "retry" else once
    look = partial(_look, choice)
    lines = begin(options.socket, choice, look=look, say=_say)
    printed = printer(form, _short(options, times, terminal=terminal), times.zone)
    out = sys.stdout.buffer
    end_with_reader()
    try:
        for line in islice(lines, options.count):
            out.write(printed(line) + b"\n")
            out.flush()
    except RequestError as error:
        if options.where and error.column:
            error.hint = pointed(options.where, error.column).replace("\n", "\n  ")
        raise
    return 0


def _say(text: str) -> None:
    sys.stderr.write(complaint(text))


def _look(choice: Choice, client: Client) -> str:
    is_seen = choice["follow"] and sys.stderr.isatty()
    return remark(client, choice) if is_seen else ""


def _short(options: argparse.Namespace, times: _Times, *, terminal: bool) -> Short:
    no_color = "NO_COLOR" in os.environ  # no-color.org
    colour = options.color == "always" or (options.color == "auto" and terminal and not no_color)
    width = TerminalWidth() if terminal and not options.no_trunc else lambda: None
    return Short(width=width, colour=colour, zone=times.zone, now=times.now)


def _times(options: argparse.Namespace) -> _Times:
    now, zone = datetime.now(UTC), UTC if options.utc else None
    found: dict[str, datetime | None] = {"since": None, "until": None}
    for name in found:
        if (text := getattr(options, name)) is not None:
            try:
                found[name] = parse_when(text, now=now, zone=zone, end=name == "until")
            except ValueError as error:
                raise ArgumentError(f"argument --{name}: {error}") from error
    since, until = found["since"], found["until"]
    if since and until and is_time_of_day(options.since) and is_time_of_day(options.until):
        before = parse_when(options.until, now=now - timedelta(days=1), zone=zone, end=True)
        until = before if since <= before and until > now else until
    if since and until and since > until:
        raise ArgumentError("argument --until: it is before --since")
    return _Times(now, zone, since, until)


def _choice(options: argparse.Namespace, times: _Times, *, switches: bool) -> Choice:
    fields = _items(options.fields, "--fields")
    if options.follow == "retry" and fields and "seq" not in fields:
        raise ArgumentError("--follow=retry needs the number of each line: add seq to --fields")
    has_start = not (options.last is options.since is options.from_seq is None)
    is_past = options.no_follow or (times.until is not None and times.until <= times.now)
    return {
        "events": _events(
            _items(options.event, "--event"),
            _items(options.not_event, "--not-event"),
            switches=switches,
        ),
        "pids": options.pid,
        "tree": options.tree,
        "arch": _items(options.arch, "--arch") or None,
        "guest": _text(options.guest, "--guest"),
        "where": _text(options.where, "--where"),
        "fields": fields or None,
        "from_seq": options.from_seq,
        "since": rfc3339(times.since) if times.since else None,
        "until": rfc3339(times.until) if times.until else None,
        "last": _LINES if is_past and not has_start else options.last,
        "follow": not options.no_follow,
    }


def _text(value: str | None, option: str) -> str | None:
    return None if value is None else utf8(value, f"argument {option}")


def _items(values: list[str] | None, option: str) -> list[str]:
    """Return the items of an option that takes lists of names. Raises ArgumentError."""
    items = [utf8(item, f"argument {option}") for item in listed(values)]
    if "" in items or "-" in items:
        raise ArgumentError(f"argument {option}: an empty name")
    return items


def _events(included: list[str], excluded: list[str], *, switches: bool) -> list[str] | None:
    """Return the words that stand for the events to request; None for all of them.

    `switches` says whether SCHED_SWITCH is meant where no event is asked for.
    """
    words = [*included, *(f"-{name}" for name in excluded)]
    if all(word.startswith("-") for word in included):
        words += [] if switches else ["-SCHED_SWITCH"]
        words = ["all", *words] if words else []
    return words or None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a number of lines is expected, not {text!r}")
    return int(text)


def _last(text: str) -> int:
    if (count := _count(text)) > _LAST_MAX:
        raise argparse.ArgumentTypeError(f"at most {_LAST_MAX:,} lines; --since has no limit")
    return count


def _pid(text: str) -> int:
    try:
        return int(text)  # the daemon knows the range
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a process ID is expected, not {text!r}") from error
