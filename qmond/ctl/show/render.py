"""An event as a line that a person reads: aligned, coloured, cut to the terminal's width."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from qmond.ctl.show.text import cut, pad, printable
from qmond.ctl.show.text import width as width_of
from qmond.events.fields import Group
from qmond.events.table import PUBLIC

__all__ = ["ASIDE", "line", "moment", "quoted"]

ASIDE: Final = frozenset({"ts", "time", "seq", "tid", "arch", "guest", "event", "evt", "pid"})
"""Keys that are columns, or that a person seldom asks for; `start` likewise."""
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
_COLOUR: Final = {event.name: _COLOURS[event.group] for event in PUBLIC if event.group}


def line(event: Mapping[str, Any], *, width: int | None = None, colour: bool = False) -> str:
    """Return one line, without its end; `width` is the terminal's in columns, or None."""
    name = str(event.get("event") or event.get("evt") or "?")
    pid = event.get("pid", event.get("parent", event.get("prev_pid", -1)))
    guest = str(event.get("guest") or "").rpartition("/")[2]
    head = [
        moment(event),
        f"{'' if pid == -1 else printable(str(pid)):>7}",
        pad(cut(printable(guest), 12), 12),
        pad(printable(name), 15),
    ]
    shown = " ".join(_shown(key, value) for key, value in event.items() if _is_shown(key, value))
    if width is not None:
        shown = cut(shown, max(0, width - sum(map(width_of, head)) - len(head)))
    if colour:
        head[0] = f"{_DIM}{head[0]}{_RESET}"
        head[3] = f"{_COLOUR.get(name, '')}{head[3]}{_RESET}"
    return " ".join([*head, shown]).rstrip()


def moment(event: Mapping[str, Any]) -> str:
    """Return when it was: the time of day here, or where the line has no time, seconds."""
    try:
        return f"{datetime.fromisoformat(event['time']).astimezone():%H:%M:%S.%f}"
    except (KeyError, TypeError, ValueError, OverflowError):
        ts = event.get("ts", 0)
        known = isinstance(ts, int | float) and abs(ts) < _SECONDS_MAX
        return f"{ts:15.6f}" if known else f"{'':15}"


def quoted(text: str) -> str:
    """Return a text in quotes, with nothing in it that a terminal might act on."""
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _shown(key: str, value: object) -> str:
    return f"{printable(key)}={_value(value)}"


def _is_shown(key: str, value: object) -> bool:
    return key not in ASIDE and key != "start" and value is not None and value is not False


def _value(value: object) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return "[" + " ".join(map(quoted, value)) + "]"
    return printable(json.dumps(value, ensure_ascii=False))
