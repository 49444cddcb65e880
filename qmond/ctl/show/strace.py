"""An event in strace's manner: what qmond does not know of a call is `?`.

How, its row of the table says (`strace`). There a key in braces stands for its value, shown as its
form is, or as the notation behind a colon says; `{one|other:NONE}` for the names of those bits that
are set, or NONE. A row that begins with a parenthesis tells of a call, whose name comes before it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from datetime import tzinfo
from string import Formatter
from typing import Any, Final

from qmond.ctl.show.render import ASIDE, moment, name_of, pid_of, quoted
from qmond.ctl.show.text import printable
from qmond.events.calls import CALLS
from qmond.events.fields import Event, Field, Form
from qmond.events.table import PUBLIC

__all__ = ["line", "parts"]

_Line = Mapping[str, Any]
_Part = Callable[[_Line], str]
_DOMAINS: Final = {1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK", 17: "AF_PACKET"}
_TYPES: Final = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 5: "SOCK_SEQPACKET"}
_FLAGS: Final = {0o2000000: "SOCK_CLOEXEC", 0o4000: "SOCK_NONBLOCK"}


def line(event: _Line, zone: tzinfo | None = None) -> str:
    """Return one line, without its end; `zone` is that of the time, None for the system's."""
    pid = pid_of(event)
    text = "".join(part(event) for part in _PARTS.get(name_of(event), (_plain,)))
    who = f"[pid {pid}] " if pid else ""
    return printable(f"{who}{moment(event, zone)} {text}")


def _plain(event: _Line) -> str:
    values = {key: value for key, value in event.items() if key not in ASIDE}
    shown = f"{name_of(event)} {json.dumps(values, ensure_ascii=False)}".lstrip()
    return f"*** {printable(shown)} ***"


# ---- how a value is shown: each notation takes a line and a key --------------------------------


def _value(event: _Line, key: str) -> str:
    return str(event.get(key, "?"))


def _text(event: _Line, key: str) -> str:
    unknown = key not in event or (event.get("fault") and not event[key])
    return "?" if unknown else quoted(str(event[key]))


def _content(event: _Line, key: str) -> str:
    if event.get("redacted"):
        return "?"
    return _text(event, key) + ("..." if event.get("truncated") else "")


def _family(event: _Line, key: str) -> str:
    number = event.get(key)
    return _DOMAINS.get(number, str(number)) if isinstance(number, int) else "?"


def _socket(event: _Line, key: str) -> str:
    number = event.get(key)
    if not isinstance(number, int):
        return "?"
    base = number & ~sum(_FLAGS)
    flags = [name for bit, name in _FLAGS.items() if number & bit]
    return "|".join([_TYPES.get(base, str(base)), *flags])


def _signal(event: _Line, key: str) -> str:
    number = event.get(key)
    try:
        return signal.Signals(number).name if isinstance(number, int) else "?"
    except ValueError:
        return f"SIG{number}"


def _ending(event: _Line, key: str) -> str:
    if event.get(key) is not None:
        return f"killed by {_signal(event, key)}"
    return f"exited with {_value(event, 'code')}"


def _bits(event: _Line, names: Mapping[str, str]) -> str:
    if names.keys().isdisjoint(event):
        return "?"
    return "|".join(name for key, name in names.items() if event.get(key))


def _words(event: _Line, key: str) -> str:
    words = event.get(key)
    return ", ".join(quoted(str(word)) for word in words) if isinstance(words, list) else "?"


_BY_FORM: Final = {Form.TEXT: _text, Form.ADDRESS: _text, Form.CONTENT: _content}
"""Of other forms values are shown as they are."""
_NOTATIONS: Final = {
    "ending": _ending,
    "family": _family,
    "signal": _signal,
    "socket": _socket,
    "words": _words,
}


# ---- what the table says -------------------------------------------------------------------------


def parts(event: Event) -> tuple[_Part, ...]:
    """Return what makes an event's text, piece by piece.

    Raises ValueError where its row names a key, a notation or a call that is not there.
    """
    found = [_call(event.name)] if event.strace.startswith("(") else []
    fields = {field.key: field for field in event.fields}
    for text, keys, notation, _ in Formatter().parse(event.strace):
        found.append(_literal(text))
        if keys is not None:
            found.append(_shown(event.name, fields, keys, notation or ""))
    return tuple(found)


def _literal(text: str) -> _Part:
    return lambda _: text


def _call(name: str) -> _Part:
    own = [call.name for call in CALLS if call.event == name and call.own]
    if not own:
        raise ValueError(f"{name}: no call is its own")
    return lambda event: str(event.get("call", own[0]))


def _shown(name: str, fields: Mapping[str, Field], keys: str, notation: str) -> _Part:
    chosen = [fields[key] for key in keys.split("|") if key in fields]
    if len(chosen) != keys.count("|") + 1:
        raise ValueError(f"{name}: it has not the keys {keys}")
    if all(field.form is Form.BIT for field in chosen):
        bits = {field.key: field.meaning for field in chosen}
        return lambda event: _bits(event, bits) or notation
    if notation and notation not in _NOTATIONS:
        raise ValueError(f"{name}: there is no notation {notation}")
    show = _NOTATIONS.get(notation) or _BY_FORM.get(chosen[0].form, _value)
    return lambda event: show(event, keys)


_PARTS: Final = {event.name: parts(event) for event in PUBLIC if event.strace}
