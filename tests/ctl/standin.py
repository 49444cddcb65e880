"""Stands in for the daemon: answers every operation, for as many clients as there come."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peer import HELLO, hello

from qmond.events.schema import table

COUNTER = {"seen": 9, "written": 9, "lost": 0, "suppressed": 0}
LINE = {"ts": 1.5, "event": "EXEC", "pid": 7, "filename": "/bin/é\u4e16\x1b[2J", "seq": 1}


def process(pid: int, ppid: int = 1, guest: str = "/bin/é\u4e16") -> dict[str, Any]:
    return {
        "pid": pid, "ppid": ppid, "uid": 0, "bin": "qemu-arm", "guest": guest, "arch": "arm",
        "launch": "direct", "container": None, "start": float(pid), "age": 61.0, "rate": 5,
        "events": 70, "allocations": "static", "comm": "sh",
        "parents": [{"pid": ppid, "comm": "sh"}],
    }  # fmt: skip


def answers(path: Path) -> dict[str, Any]:
    """Return a daemon's answer to each operation; its log is at `path`."""
    return {
        "status": {
            "version": "9", "uptime": 1.0, "boot_id": "b", "probes": ["sys_enter"], "tracked": 1,
            "ring": {"size": 8, "used": 0}, "allocations": {"static": 1}, "limits": [],
            "advice": [], "clients": [], "counters": {"EXEC": COUNTER},
            "log": {"path": str(path), "bytes": 9, "rotated": 0, "failing": False},
        },
        "ps": [process(7), process(8, 7)],
        "events": table(),
        "config": {
            "fields": "full",
            "events": [event["name"] for event in table()],
            "capture": {"bytes": 256},
            "match": {"prefixes": ["é\u4e16"]},
            "limits": {},
            "procfs": "/proc",
        },
        "log-level": "info",
        "rotate": {"path": f"{path}-é"},
        "reload": {"restart": []},
        "tail": {},
        "stop": {"sent": 3, "dropped": 0},
    }  # fmt: skip


@contextmanager
def standing_in(path: Path, known: Mapping[str, Any], lines: int = 3) -> Iterator[None]:
    """Serve clients at `path` with the answers that are known; a tail has that many lines."""
    with listening(path) as listener, contextlib.ExitStack() as stack:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    stack.callback(client.close)
                    stack.callback(shut, client)
                    threading.Thread(target=converse, args=(client, known, lines)).start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            shut(listener)
            thread.join(10)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen at `path`; who connects is not greeted."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(64)
        yield listener


def shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def converse(client: socket.socket, known: Mapping[str, Any], lines: int) -> None:
    with contextlib.suppress(OSError, ValueError), client.makefile("rwb", 0) as stream:
        stream.write(hello(0).replace(b'"protocol"', b'"version": "9", "protocol"'))
        for request in map(json.loads, stream):
            answer = {"id": request["id"], "ok": known[request["op"]]}
            stream.write(json.dumps(answer).encode() + b"\n")
            if request["op"] == "tail":
                for number in range(1, lines + 1):
                    stream.write(json.dumps(LINE | {"seq": number}).encode() + b"\n")
                if not request["args"].get("follow", True):
                    stream.write(b'{"end":{"reason":"complete"}}\n')


__all__ = ["HELLO", "LINE", "answers", "listening", "process", "standing_in"]
