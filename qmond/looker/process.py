"""The looker's process: it answers one question at a time, and the daemon can kill it at any time.

It reads procfs, and the memory and files of any process. If one of them is hostile, it harms only
this process, and the daemon replaces it.

`python -m qmond.looker.process CHANNEL PROCFS PROGRAM PARENT`: the descriptor of a socket, the path
of the host's procfs, the descriptor of the program for allocation probes (-1 for none), and the
daemon's process ID.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from qmond.bpf import uprobes
from qmond.looker import requests
from qmond.looker.requests import MESSAGE_MAX, ROWS_MAX
from qmond.looker.scan import outline, scan, words
from qmond.privileges import die_with_parent

__all__ = ["main"]

_MEMORY: Final = 512 << 20
"""The limit of its address space, in bytes."""
_EXPENDABLE: Final = "500"
"""oom_score_adj, see proc(5): when memory is short, a looker is killed before other processes."""
_CPU: Final = {"scan": 10.0, "describe": 2.0, "probe": 2.0}
"""Seconds of CPU time for an answer; then SIGPROF ends the process."""


def main() -> int:
    """Answer until the daemon closes the socket; returns the exit status."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    root, program, parent = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    die_with_parent()
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: it is for the daemon
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE, encoding="ascii")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    channel.send(b"{}")
    while data := channel.recv(MESSAGE_MAX):
        request = requests.load(data)
        signal.setitimer(signal.ITIMER_PROF, _CPU[request["what"]])
        if request["what"] == "probe":
            _probe(channel, request, program, root)
        else:
            answers = _scan if request["what"] == "scan" else _describe
            for answer in answers(request, root):
                channel.send(orjson.dumps(answer))
        signal.setitimer(signal.ITIMER_PROF, 0)
    return 0


def _scan(request: dict[str, Any], root: Path) -> Iterator[dict[str, Any]]:
    prefixes, excludes = (
        tuple(name.encode("latin-1") for name in request[key]) for key in ("prefixes", "excludes")
    )
    found = scan(root, prefixes, excludes)
    while rows := list(islice(found, ROWS_MAX)):
        yield {"found": [*map(list, rows)]}
    yield {"found": []}


def _describe(request: dict[str, Any], root: Path) -> Iterator[dict[str, Any]]:
    pid = request["pid"]
    try:
        seen = outline(pid, root)
    except (FileNotFoundError, ProcessLookupError):
        yield {"gone": True}
        return
    except (OSError, ValueError):
        yield {"gone": False}
        return
    yield {"outline": _plain(asdict(seen))}
    risky = request["risky"] and seen.uid not in request["spared"]
    found = words(pid, root) if risky else None
    yield {"words": found and _plain(asdict(found))}


def _probe(channel: socket.socket, request: dict[str, Any], program: int, root: Path) -> None:
    pid, links = request["pid"], []
    try:
        if uprobes.is_static_program(pid, root):
            outcome = "static"
        else:
            links = uprobes.attach(program, pid, request["start"], request["name"], root)
            outcome = "counted"
    except (uprobes.NotProbedError, FileNotFoundError, ProcessLookupError, ValueError):
        outcome = "none"
    except uprobes.UnsafeError:
        outcome = "unsafe"
    except OSError:
        outcome = "refused"
    socket.send_fds(channel, [orjson.dumps({"outcome": outcome})], links)
    uprobes.close(links)  # the daemon has them now


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, bytes):
        return requests.text(value)
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main())
