"""A reader: one client's own process, which reads the log and filters the lines that come.

`python -m qmond.server.reader CHANNEL PARENT` is the fork server that readers are forked from
(forkserver.py). The front writes the request to the reader's input, then the lines as they come.
The reader writes the lines that the client gets to its output. So an expensive expression, or a
long look into the log, costs the front and the other clients nothing. A hostile expression can
break its reader alone: one that takes too long for one line ends it, by SIGPROF. Where the client
is too slow, the front leaves lines out, and writes `#read FIRST LAST` with their numbers: the
reader takes those from the log.
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
"""Bytes of address space of a reader."""
_EXPENDABLE: Final = "500"
"""Where memory is short, readers are killed before the daemon and the guests: proc(5)."""
_NICE: Final = 15
"""The daemon's precedence for CPU time is not for its clients."""
_CHUNK: Final = 1 << 16

LineFilter = Callable[[bytes], bytes | None]
"""Returns what the client gets of a line, or None."""


def main() -> int:
    """Fork readers until the front hangs up; returns the exit status."""
    _end_with_parent(int(sys.argv[2]))
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
                report = {"exited": numbers.pop(pid), "status": status}
                channel.send(orjson.dumps(report))
        if channel.fileno() in ready:
            message, fds, *_ = socket.recv_fds(channel, 4096, 2)
            if not message:
                return 0
            order = orjson.loads(message)
            if "fork" in order:
                try:
                    pid = _fork(fds, [channel.fileno(), awake, wake], needs_cel=order["cel"])
                    numbers[pid] = order["fork"]
                except (OSError, ImportError) as error:  # other readers go on
                    sys.stderr.write(f"qmond: no reader could be started: {error}\n")
                    channel.send(orjson.dumps({"exited": order["fork"], "status": 1}))
            else:
                for pid in [pid for pid, number in numbers.items() if number == order["kill"]]:
                    os.kill(pid, signal.SIGKILL)  # it is not reaped: the ID is its own


def _end_with_parent(parent: int) -> None:
    """Have this process end when the process that started it ends."""
    die_with_parent()
    if os.getppid() != parent:
        sys.exit(1)


def _ended(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Return which of these children have ended, with their exit statuses."""
    found = [os.waitpid(pid, os.WNOHANG) for pid in pids]
    return [(pid, os.waitstatus_to_exitcode(status)) for pid, status in found if pid]


def _fork(fds: list[int], own: list[int], *, needs_cel: bool) -> int:
    """Start a reader with these descriptors for input and output; returns its process ID.

    It does not keep the fork server's `own` ones.
    """
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
            _end_with_parent(parent)
            signal.set_wakeup_fd(-1)
            for fd in own:
                os.close(fd)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status = _read(*fds)
        except BaseException:  # noqa: BLE001 - the fork server's own code must not go on here
            traceback.print_exc()
        finally:
            os._exit(status)
    for fd in fds:
        os.close(fd)
    return pid


def _read(source_fd: int, sink_fd: int) -> int:
    """Run a reader to its end; returns the exit status."""
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
    """Answer the request, and write the chosen lines until there are no more."""
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
    line_filter = _cpu_bounded_by_line(chosen) if selection.where else chosen
    directory = Path(request["log"])
    if selection.of_the_past:
        with History(directory, Position(*request["end"])) as history:
            _write(_past(history, selection, line_filter), sink)
    chosen.add_members(request["members"])
    if selection.follow:
        for lines in _batches(source):
            _write(_live(lines, directory, line_filter), sink)


@contextlib.contextmanager
def _cpu_bounded() -> Iterator[None]:
    """Have SIGPROF end this process where the body takes too much CPU time."""
    signal.setitimer(signal.ITIMER_PROF, CPU_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _cpu_bounded_by_line(chosen: Filter) -> LineFilter:
    def line_filter(line: bytes) -> bytes | None:
        signal.setitimer(signal.ITIMER_PROF, CPU_MAX)
        kept = chosen(line)
        signal.setitimer(signal.ITIMER_PROF, 0)
        return kept

    return line_filter


def _past(history: History, selection: Selection, line_filter: LineFilter) -> Iterator[bytes]:
    """Return the chosen lines of the log."""
    if selection.last is not None:
        in_order = selection.tree is not None
        return _last(history, selection.last, line_filter, in_order=in_order)
    if selection.since is not None:
        return _chosen(history.since(selection.since), line_filter)
    assert selection.from_seq is not None  # noqa: S101 - one of the three it is
    return _chosen(history.numbers(selection.from_seq), line_filter)


def _last(
    history: History, count: int, line_filter: LineFilter, *, in_order: bool
) -> Iterator[bytes]:
    """Return the last chosen lines; a tree needs all lines of the log `in_order`."""
    found: deque[bytes] = deque()
    for lines in [history.lines()] if in_order else history.backwards():
        newest = deque(_chosen(lines, line_filter), maxlen=count - len(found))
        found.extendleft(reversed(newest))
        if len(found) >= count:
            break
    return iter(found)


def _live(lines: Iterable[bytes], directory: Path, line_filter: LineFilter) -> Iterator[bytes]:
    """Yield the chosen lines of those that came, and of those that are to be read from the log."""
    for is_order, group in itertools.groupby(lines, lambda line: line.startswith(b"#")):
        if not is_order:
            yield from _chosen(group, line_filter)
            continue
        for line in group:
            first, last = map(int, line.split()[1:])
            with History(directory) as history:
                yield from _chosen(history.numbers(first, last), line_filter)


def _chosen(lines: Iterable[bytes], line_filter: LineFilter) -> Iterator[bytes]:
    return (kept for line in lines if (kept := line_filter(line)) is not None)


def _write(lines: Iterable[bytes], sink: BinaryIO) -> None:
    sink.writelines(lines)
    sink.flush()


def _batches(source: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the whole lines that have come, until the other end is closed."""
    rest = b""
    while chunk := source.read1(_CHUNK):  # type: ignore[attr-defined] # of a BufferedReader
        *lines, rest = (rest + chunk).split(b"\n")
        yield [line + b"\n" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
