"""An event in strace's manner: what qmond does not know of a call is `?`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from typing import Any, Final

from qmond.ctl.show.render import moment, quoted
from qmond.ctl.show.text import printable

__all__ = ["line"]

_Event = Mapping[str, Any]
_DOMAINS: Final = {1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6", 16: "AF_NETLINK", 17: "AF_PACKET"}
_TYPES: Final = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 5: "SOCK_SEQPACKET"}
_FLAGS: Final = {0o2000000: "SOCK_CLOEXEC", 0o4000: "SOCK_NONBLOCK"}
_PROTECTION: Final = (("read", "PROT_READ"), ("write", "PROT_WRITE"), ("exec", "PROT_EXEC"))


def line(event: _Event) -> str:
    """Return one line, without its end."""
    name = str(event.get("event") or event.get("evt") or "?")
    pid = event.get("pid", event.get("parent", event.get("prev_pid")))
    told = _TOLD.get(name, _plain)(event)
    if call := _CALLS.get(name):
        told = f"{printable(str(event.get('call', call)))}({told}"
    who = "" if pid in (None, -1) else f"[pid {pid}] "
    return printable(f"{who}{moment(event)} {told}")


def _plain(event: _Event) -> str:
    name = event.get("event") or event.get("evt")
    aside = {"ts", "time", "seq", "tid", "arch", "guest", "event", "evt", "pid"}
    told = {key: value for key, value in event.items() if key not in aside}
    return f"*** {printable(f'{name} {json.dumps(told, ensure_ascii=False)}')} ***"


def _text(event: _Event, key: str) -> str:
    return "?" if event.get("fault") and not event.get(key) else quoted(str(event.get(key, "")))


def _buffer(event: _Event) -> str:
    if event.get("redacted"):
        return "?"
    return _text(event, "buf") + ("..." if event.get("truncated") else "")


def _socket(event: _Event) -> str:
    domain, kind = event.get("domain", 0), event.get("type", 0)
    flags = [name for bit, name in _FLAGS.items() if kind & bit]
    base = kind & ~sum(_FLAGS)
    return (
        f"{_DOMAINS.get(domain, domain)}, {'|'.join([_TYPES.get(base, str(base)), *flags])}, ?) = ?"
    )


def _protection(event: _Event) -> str:
    return "|".join(name for key, name in _PROTECTION if event.get(key)) or "PROT_NONE"


def _signal(number: object) -> str:
    try:
        return signal.Signals(number).name if isinstance(number, int) else "?"
    except ValueError:
        return f"SIG{number}"


def _ended(event: _Event) -> str:
    if event.get("signal") is not None:
        return f"+++ killed by {_signal(event['signal'])} +++"
    return f"+++ exited with {event.get('code')} +++"


def _adopted(event: _Event) -> str:
    argv = ", ".join(quoted(str(word)) for word in event.get("argv", []))
    return f"+++ watched from here on ({event.get('origin')}): [{argv}] +++"


_CALLS: Final = {
    "TRACK_OPENAT": "openat",
    "TRACK_FORK": "fork",
    "EXEC": "execve",
    "READ": "read",
    "WRITE": "write",
    "READLINKAT": "readlinkat",
    "SOCKET": "socket",
    "CONNECT": "connect",
    "SENDTO": "sendto",
    "RECVFROM": "recvfrom",
    "DUP2": "dup2",
    "WAIT4_EXITED": "wait4",
    "SETUID": "setuid",
    "MPROTECT": "mprotect",
    "MADVICE": "madvise",
}
"""The call that an event tells of, where `call` does not name another."""
_TOLD: Final[dict[str, Callable[[_Event], str]]] = {
    "TRACK_OPENAT": lambda e: f"AT_FDCWD?, {_text(e, 'file')}, ?) = ?",
    "TRACK_FORK": lambda e: f") = {e.get('child')}",
    "EXEC": lambda e: f"{_text(e, 'filename')}, ?) = ?",
    "READ": lambda e: f"{e.get('fd')}, {_buffer(e)}, ?) = {e.get('len', '?')}",
    "WRITE": lambda e: f"{e.get('fd')}, {_buffer(e)}, {e.get('len', '?')}) = ?",
    "READLINKAT": lambda e: f"AT_FDCWD?, {_text(e, 'path')}, ?) = ?",
    "SOCKET": _socket,
    "CONNECT": lambda e: f"?, {_text(e, 'addr')}, ?) = ?",
    "SENDTO": lambda e: f"?, ?, {e.get('len')}) = ?",
    "RECVFROM": lambda e: f"?, ?, {e.get('size')}) = ?",
    "DUP2": lambda e: f"{e.get('oldfd')}, {e.get('newfd')}) = ?",
    "WAIT4_EXITED": lambda e: f"?) = {e.get('reaped_child')}",
    "SETUID": lambda e: f"{e.get('uid')}) = ?",
    "MPROTECT": lambda e: f"?, ?, {_protection(e)}) = ?",
    "MADVICE": lambda e: f"?, ?, {printable(str(e.get('advice')))}) = ?",
    "SIGNAL_GENERATE": lambda e: f"--- {_signal(e.get('sig'))} ---",
    "SCHED_SWITCH": lambda e: f"--- switch from {e.get('prev_pid')} to {e.get('next_pid')} ---",
    "EXIT": _ended,
    "TRACK_ADOPT": _adopted,
}
