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
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from qmond.errors import RequestError
from qmond.log.files import Position
from qmond.log.history import History, time_of, time_text
from qmond.privileges import die_with_parent
from qmond.server.filters import KINDS, Filter, NotBooleanError
from qmond.server.protocol import UNTIL_GRACE, Selection, described, parse_selection

__all__ = ["CPU_MAX", "NOT_BOOLEAN", "main"]

CPU_MAX: Final = 1.0
"""Seconds of CPU time that an expression may take for one line."""
NOT_BOOLEAN: Final = {kind: 10 + number for number, kind in enumerate(KINDS.values())}
"""The exit status of a reader whose expression gives a value of this kind for a line."""

_MEMORY: Final = 512 << 20
"""Bytes of address space of a reader."""
_EXPENDABLE: Final = "500"
"""Where memory is short, readers are killed before the daemon and the guests: proc(5)."""
_NICE: Final = 15
"""The daemon's precedence for CPU time is not for its clients."""
_CHUNK: Final = 1 << 16
_MOMENT: Final = 0.2
"""Seconds in which the front writes on, where it has more."""
_LONG: Final = 60.0
"""Seconds after which the clock is read again: it may be set while a reader waits."""

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
    source, sink = _Source(source_fd), os.fdopen(sink_fd, "wb")
    try:
        _serve(source.request(), source, sink)
        sink.flush()
    except BrokenPipeError:  # the front has hung up
        return 0
    except NotBooleanError as error:
        sink.flush()
        return NOT_BOOLEAN[error.kind]
    except OSError as error:
        sys.stderr.write(f"qmond: a client's reader: {error}\n")
        return 1
    return 0


def _serve(request: dict[str, Any], source: _Source, sink: BinaryIO) -> None:
    """Answer the request, and write the chosen lines until there are no more."""
    try:
        selection = parse_selection(request["args"], request["configured"], request["now"])
        with _cpu_bounded():
            chosen = Filter(selection, content=request["content"])
    except RequestError as error:
        sink.write(orjson.dumps(described(error)) + b"\n")
        sink.flush()
        return
    sink.write(b'{"ok":{}}\n')
    sink.flush()
    line_filter = _cpu_bounded_by_line(chosen) if selection.where else chosen
    choose, directory = _Chooser(line_filter, selection.until), Path(request["log"])
    if selection.of_the_past:
        with History(directory, Position(*request["end"]), request["following"]) as history:
            _write(_past(history, selection, choose), sink)
    chosen.add_members(request["members"])
    if selection.follow and not choose.is_over:
        for lines in source.batches(selection.until):
            _write(_live(lines, directory, choose), sink)
            if choose.is_over:
                break


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


class _Chooser:
    """Chooses lines by a filter, and by a time after which none is wanted.

    `is_over` says that no line can come any more which is not after that time.
    """

    def __init__(self, line_filter: LineFilter, until: float | None) -> None:
        self.is_over = False
        self._filter = line_filter
        self._last = b"" if until is None else time_text(until)
        self._over = b"" if until is None else time_text(until + UNTIL_GRACE)

    def __call__(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in lines:
            if self._last and (when := time_of(line)) > self._last:
                if when > self._over:
                    self.is_over = True
                    return
                continue
            if (kept := self._filter(line)) is not None:
                yield kept


def _past(history: History, selection: Selection, choose: _Chooser) -> Iterator[bytes]:
    """Return the chosen lines of the log."""
    if selection.last is not None:
        in_order = selection.tree is not None
        return _last(history, selection.last, choose, in_order=in_order)
    if selection.since is not None:
        return choose(history.since(selection.since))
    assert selection.from_seq is not None  # noqa: S101 - one of the three it is
    return choose(history.numbers(selection.from_seq))


def _last(history: History, count: int, choose: _Chooser, *, in_order: bool) -> Iterator[bytes]:
    """Return the last chosen lines; a tree needs all lines of the log `in_order`."""
    found: deque[bytes] = deque()
    for lines in [history.lines()] if in_order else history.backwards():
        newest = deque(choose(lines), maxlen=count - len(found))
        found.extendleft(reversed(newest))
        if len(found) >= count:
            break
    return iter(found)


def _live(lines: Iterable[bytes], directory: Path, choose: _Chooser) -> Iterator[bytes]:
    """Yield the chosen lines of those that came, and of those that are to be read from the log."""
    for is_order, group in itertools.groupby(lines, lambda line: line.startswith(b"#")):
        if not is_order:
            yield from choose(group)
            continue
        for line in group:
            first, last = map(int, line.split()[1:])
            with History(directory) as history:
                yield from choose(history.numbers(first, last))


def _write(lines: Iterable[bytes], sink: BinaryIO) -> None:
    sink.writelines(lines)
    sink.flush()


class _Source:
    """What the front writes: the request, then the lines that come."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""  # the beginning of a line

    def request(self) -> dict[str, Any]:
        """Return the request. Raises BrokenPipeError where the front hangs up before that."""
        while b"\n" not in self._rest:
            chunk = os.read(self._fd, _CHUNK)
            if not chunk:
                raise BrokenPipeError
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        request: dict[str, Any] = orjson.loads(line)
        return request

    def batches(self, until: float | None) -> Iterator[list[bytes]]:
        """Yield the whole lines that have come; ends when the front hangs up, or after `until`."""
        while True:
            *lines, self._rest = self._rest.split(b"\n")
            yield [line + b"\n" for line in lines]
            if until is not None and not self._await_more(until + UNTIL_GRACE):
                return
            chunk = os.read(self._fd, _CHUNK)
            if not chunk:
                return
            self._rest += chunk

    def _await_more(self, end: float) -> bool:
        """Wait for lines; returns False where the time is over, and none has come for a moment."""
        while True:
            left = end - time.time()
            if select.select([self._fd], [], [], min(max(left, _MOMENT), _LONG))[0]:
                return True
            if left <= 0:
                return False


if __name__ == "__main__":
    sys.exit(main())
