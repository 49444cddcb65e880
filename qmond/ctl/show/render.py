"""An event as a line that a person reads: aligned, coloured, cut to the terminal's width.

What the event is about comes first: a path, an address, content, or a command line. The table's
forms say which key has it. A narrow terminal gets less of the rest, so that there is room for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Final

from qmond.ctl.show.text import cut, pad, printable
from qmond.ctl.show.text import width as width_of
from qmond.events.fields import Event, Field, Form, Group
from qmond.events.table import PUBLIC

__all__ = ["ASIDE", "day", "line", "moment", "name_of", "pid_of", "plain", "quoted"]

ASIDE: Final = frozenset(
    {"ts", "time", "seq", "tid", "arch", "guest", "guest_path", "event", "evt", "pid", "parent"}
)
"""Keys that are columns, or that a person seldom asks for; `start` and exact bytes likewise."""
_OF_ONE_RUN: Final = frozenset(
    {"child", "reaped_child", "prev_pid", "next_pid", "next_tgid", "ppid", "parents", "container"}
)
"""Keys whose values another run of the same program does not have."""
_SECONDS_MAX: Final = 1e10
_RESET: Final = "\033[0m"
_DIM: Final = "\033[2m"
_RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN = (f"\033[{number}m" for number in range(31, 37))
_COLOURS: Final = {
    Group.LOSS: _RED,
    Group.PROCESS: _GREEN,
    Group.IDENTITY: _GREEN,
    Group.FILE: _CYAN,
    Group.NET: _MAGENTA,
    Group.SIGNAL: _YELLOW,
    Group.MEMORY: _YELLOW,
    Group.DAEMON: _BLUE,
}
_COLOUR: Final = {
    event.name: _COLOURS[event.group]
    for event in PUBLIC
    if event.group in _COLOURS and not event.statistic
}


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a line on terminals of `least` columns and more."""

    least: int
    time: int  # digits of a second's fraction
    guest: int
    event: int
    named: bool  # whether the key of what the event is about is shown


_LAYOUTS: Final = (
    _Layout(100, time=6, guest=12, event=15, named=True),
    _Layout(70, time=3, guest=10, event=12, named=False),
    _Layout(0, time=0, guest=0, event=12, named=False),
)


def line(
    event: Mapping[str, Any],
    *,
    width: int | None = None,
    colour: bool = False,
    zone: tzinfo | None = None,
) -> str:
    """Return one line, without its end; `width` is the terminal's in columns, or None."""
    layout = next(one for one in _LAYOUTS if width is None or width >= one.least)
    name, guest = name_of(event), printable(str(event.get("guest") or "").rpartition("/")[2])
    guest = guest if width is None else cut(guest, layout.guest)
    subject, rest = _texts(event, name, named=layout.named)
    pieces = [
        (moment(event, zone, layout.time), _DIM),
        (f" {printable(pid_of(event)):>7} ", ""),
        (pad(guest, layout.guest) + " " * (layout.guest > 0), ""),
        (pad(printable(name), layout.event), _COLOUR.get(name, "")),
        (f" {subject}" if subject else "", ""),
        (f" {rest}" if rest else "", _DIM if subject else ""),
    ]
    return "".join(_laid(pieces, width, colour=colour)).rstrip()


def plain(event: Mapping[str, Any]) -> str:
    """Return the event and its values alone, which another run of the program may have as well."""
    name = name_of(event)
    kept = {key: value for key, value in event.items() if key not in _OF_ONE_RUN}
    return " ".join(filter(None, [printable(name), *_texts(kept, name, named=True)]))


def name_of(event: Mapping[str, Any]) -> str:
    """Return the name of a line's event, or nothing where the line does not say."""
    return str(event.get("event") or event.get("evt") or "")


def pid_of(event: Mapping[str, Any]) -> str:
    """Return the process whose event it is, or nothing where the line does not say."""
    pid = event.get("pid", event.get("parent", -1))
    return "" if pid == -1 else str(pid)


def moment(event: Mapping[str, Any], zone: tzinfo | None = None, digits: int = 6) -> str:
    """Return when it was: the time of day in a zone, or where the line has no time, seconds.

    `zone` is None for the system's, `digits` how many a second's fraction has.
    """
    when, columns = _when(event, zone), 8 + digits + (digits > 0)
    if when is not None:
        return f"{when:%H:%M:%S.%f}"[:columns]
    ts = event.get("ts")
    known = isinstance(ts, int | float) and abs(ts) < _SECONDS_MAX
    return f"{ts:{columns}.{digits}f}" if known else " " * columns


def day(event: Mapping[str, Any], zone: tzinfo | None = None) -> str | None:
    """Return the day of a line and the zone, such as `2026-11-28 Sat, UTC`; None without a time."""
    when = _when(event, zone)
    return None if when is None else f"{when:%Y-%m-%d %a, %Z}"


def quoted(text: str) -> str:
    """Return a text in quotes, with nothing in it that a terminal might act on."""
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _when(event: Mapping[str, Any], zone: tzinfo | None) -> datetime | None:
    try:
        return datetime.fromisoformat(event["time"]).astimezone(zone)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _laid(pieces: Iterable[tuple[str, str]], width: int | None, *, colour: bool) -> Iterable[str]:
    """Yield pieces of a line with their colours, as far as the width goes."""
    for text, code in pieces:
        shown = text if width is None else cut(text, width)
        yield f"{code}{shown}{_RESET}" if colour and code and shown else shown
        if width is not None:
            if shown != text:
                return
            width -= width_of(shown)


def _is_subject(field: Field) -> bool:
    return field.form in {Form.TEXT, Form.ADDRESS, Form.CONTENT} or field.json == "strings"


def _subject(event: Event) -> str | None:
    return next((field.key for field in event.fields if _is_subject(field)), None)


_SUBJECTS: Final = {event.name: _subject(event) for event in PUBLIC}
"""The key of what each event is about."""


def _texts(event: Mapping[str, Any], name: str, *, named: bool) -> tuple[str, str]:
    """Return what the event is about, as text, and its other keys."""
    key = _SUBJECTS.get(name)
    shown = [key for key, value in event.items() if _is_shown(key, value)]
    rest = " ".join(f"{printable(other)}={_value(event[other])}" for other in shown if other != key)
    if key not in shown:
        return "", rest
    return f"{key}={_value(event[key])}" if named else _value(event[key]), rest


def _is_shown(key: str, value: object) -> bool:
    is_aside = key in ASIDE or key == "start" or key.endswith("_b64")
    return not is_aside and value is not None and value is not False


def _value(value: object) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return "[" + " ".join(map(quoted, value)) + "]"
    return printable(json.dumps(value, ensure_ascii=False))
