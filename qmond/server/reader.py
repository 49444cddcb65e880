"""One client's reader: a process of its own that reads the past and filters what comes.

`python -m qmond.server.reader CHANNEL PARENT` is the fork server that they come from
(forkserver.py).
The front gives a reader a request on its input, then the lines as they come; what the client
gets goes to its output. So an expensive expression, or a long look into the log, costs the
front and the other clients nothing, and what a hostile one breaks is this: an expression that takes
too long for one line ends it, by SIGPROF. Where the front had to leave lines out, since the client
is slow, a line `#read FIRST LAST` tells their numbers, and they are read from the log.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from qmond.errors import RequestError
from qmond.log.files import Position
from qmond.log.history import History
from qmond.privileges import die_with_parent
from qmond.server.filters import Filter
from qmond.server.protocol import Selection, parse_selection

__all__ = ["CPU_MAX", "main"]

CPU_MAX: Final = 1.0
"""Seconds of CPU time that an expression may take for one line."""

_MEMORY: Final = 512 << 20
"""Bytes of address space that a request may cost, and no more."""
_EXPENDABLE: Final = "500"
"""Where memory is short, a reader goes before the daemon and the guests: oom_score_adj, proc(5)."""
_NICE: Final = 15
"""The daemon has precedence, which is not for its clients."""
_CHUNK: Final = 1 << 16

Wanted = Callable[[bytes], bytes | None]


def main() -> int:
    """Fork readers until the front hangs up; returns the exit status."""
    _obey(int(sys.argv[2]))
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE, encoding="ascii")
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # it wakes the poll below
    signal.set_wakeup_fd(wake)
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(awake, select.POLLIN)
    numbers: dict[int, int] = {}  # by process ID
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if awake in ready:
            os.read(awake, 4096)
            for pid, status in _ended(numbers):
                told = {"exited": numbers.pop(pid), "status": status}
                channel.send(orjson.dumps(told))
        if channel.fileno() in ready:
            message, fds, *_ = socket.recv_fds(channel, 4096, 2)
            if not message:
                return 0
            asked = orjson.loads(message)
            if "fork" in asked:
                try:
                    pid = _fork(fds, [channel.fileno(), awake, wake], needs_cel=asked["cel"])
                    numbers[pid] = asked["fork"]
                except (OSError, ImportError) as error:  # this reader's loss, and no other's
                    sys.stderr.write(f"qmond: no reader could be started: {error}\n")
                    channel.send(orjson.dumps({"exited": asked["fork"], "status": 1}))
            else:
                for pid in [pid for pid, number in numbers.items() if number == asked["kill"]]:
                    os.kill(pid, signal.SIGKILL)  # it is not reaped: the ID is its own


def _obey(parent: int) -> None:
    """End with the process that started this one."""
    die_with_parent()
    if os.getppid() != parent:
        sys.exit(1)


def _ended(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Return which of these children have ended, with their exit statuses."""
    found = [os.waitpid(pid, os.WNOHANG) for pid in pids]
    return [(pid, os.waitstatus_to_exitcode(status)) for pid, status in found if pid]


def _fork(fds: list[int], own: list[int], *, needs_cel: bool) -> int:
    """Start a reader with these for input and output, without our own; returns its process ID."""
    try:
        if needs_cel:
            import cel  # noqa: F401, PLC0415 - a quarter of a second, and 20 MB: once for all
        gc.freeze()  # so that the pages stay shared
        parent = os.getpid()
        pid = os.fork()
    except (OSError, ImportError):
        for fd in fds:
            os.close(fd)
        raise
    if pid == 0:
        status = 1
        try:
            _obey(parent)
            signal.set_wakeup_fd(-1)
            for fd in own:
                os.close(fd)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status = _read(*fds)
        except BaseException:  # noqa: BLE001 - nothing of the fork server may run here
            traceback.print_exc()
        finally:
            os._exit(status)
    for fd in fds:
        os.close(fd)
    return pid


def _read(source_fd: int, sink_fd: int) -> int:
    """Be a reader; returns the exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    source, sink = os.fdopen(source_fd, "rb"), os.fdopen(sink_fd, "wb")
    try:
        _serve(orjson.loads(source.readline()), source, sink)
        sink.flush()
    except BrokenPipeError:  # the front has hung up
        return 0
    except OSError as error:
        sys.stderr.write(f"qmond: a client's reader: {error}\n")
        return 1
    return 0


def _serve(request: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    """Answer whether the request is a right one, and write what is chosen until all is told."""
    try:
        selection = parse_selection(request["args"], request["configured"], request["now"])
        with _cpu_bounded():
            chosen = Filter(selection, content=request["content"])
    except RequestError as error:
        sink.write(orjson.dumps({"error": {"class": error.kind, "message": error.args[0]}}) + b"\n")
        sink.flush()
        return
    sink.write(b'{"ok":{}}\n')
    sink.flush()
    wanted = _cpu_bounded_by_line(chosen) if selection.where else chosen
    directory = Path(request["log"])
    if selection.of_the_past:
        with History(directory, Position(*request["end"])) as history:
            _write(_past(history, selection, wanted), sink)
    chosen.join(request["members"])
    if selection.follow:
        for lines in _chunks(source):
            _write(_present(lines, directory, wanted), sink)


@contextlib.contextmanager
def _cpu_bounded() -> Iterator[None]:
    """Have SIGPROF end this process where what is done takes too much CPU time."""
    signal.setitimer(signal.ITIMER_PROF, CPU_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _cpu_bounded_by_line(chosen: Filter) -> Wanted:
    def wanted(line: bytes) -> bytes | None:
        signal.setitimer(signal.ITIMER_PROF, CPU_MAX)
        kept = chosen(line)
        signal.setitimer(signal.ITIMER_PROF, 0)
        return kept

    return wanted


def _past(history: History, selection: Selection, wanted: Wanted) -> Iterator[bytes]:
    if selection.last is not None:
        return _last(history, selection.last, wanted, in_order=selection.tree is not None)
    if selection.since is not None:
        return _chosen(history.since(selection.since), wanted)
    assert selection.from_seq is not None  # noqa: S101 - one of the three it is
    return _chosen(history.numbers(selection.from_seq), wanted)


def _last(history: History, count: int, wanted: Wanted, *, in_order: bool) -> Iterator[bytes]:
    """Return the last lines that are chosen; a tree is known only to who reads from the start."""
    found: deque[bytes] = deque()
    for lines in [history.lines()] if in_order else history.backwards():
        newest = deque(_chosen(lines, wanted), maxlen=count - len(found))
        found.extendleft(reversed(newest))
        if len(found) >= count:
            break
    return iter(found)


def _present(lines: Iterable[bytes], directory: Path, wanted: Wanted) -> Iterator[bytes]:
    for is_order, group in itertools.groupby(lines, lambda line: line.startswith(b"#")):
        if not is_order:
            yield from _chosen(group, wanted)
            continue
        for line in group:
            first, last = map(int, line.split()[1:])
            with History(directory) as history:
                yield from _chosen(history.numbers(first, last), wanted)


def _chosen(lines: Iterable[bytes], wanted: Wanted) -> Iterator[bytes]:
    return (kept for line in lines if (kept := wanted(line)) is not None)


def _write(lines: Iterable[bytes], sink: BinaryIO) -> None:
    sink.writelines(lines)
    sink.flush()


def _chunks(source: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the whole lines of what has come, until the other end is closed."""
    rest = b""
    while chunk := source.read1(_CHUNK):  # type: ignore[attr-defined] # of a BufferedReader
        *lines, rest = (rest + chunk).split(b"\n")
        yield [line + b"\n" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
