"""One client's reader: a process of its own that reads the past and filters what comes.

The front gives it a request on its standard input, then the lines as they come; what the client
gets goes to standard output. So an expensive expression, or a long look into the log, costs the
front and the other clients nothing, and what a hostile one breaks is this: an expression that takes
too long for one line ends it, by SIGPROF. Where the front had to leave lines out, since the client
is slow, a line `#read FIRST LAST` tells their numbers, and they are read from the log.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from qmond.errors import RequestError
from qmond.filters import Filter
from qmond.history import History
from qmond.logfile import Position
from qmond.privileges import die_with_parent
from qmond.protocol import Selection, parse_selection

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
    """Serve one request; returns the exit status."""
    die_with_parent()
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE, encoding="ascii")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    try:
        _serve(orjson.loads(source.readline()), source, sink)
    except BrokenPipeError:  # the daemon has hung up
        os.dup2(os.open(os.devnull, os.O_WRONLY), sink.fileno())
    except OSError as error:
        sys.stderr.write(f"qmond: a client's reader: {error}\n")
        return 1
    return 0


def _serve(request: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    """Answer whether the request is a right one, and write what is chosen until all is told."""
    try:
        selection = parse_selection(request["args"], request["configured"], request["now"])
        with _limited():
            chosen = Filter(selection, content=request["content"])
    except RequestError as error:
        sink.write(orjson.dumps({"error": {"class": error.kind, "message": error.args[0]}}) + b"\n")
        sink.flush()
        return
    sink.write(b'{"ok":{}}\n')
    wanted = _limited_by_line(chosen) if selection.where else chosen
    directory = Path(request["log"])
    if selection.of_the_past:
        with History(directory, Position(*request["end"])) as history:
            _write(_past(history, selection, wanted), sink)
    chosen.join(request["members"])
    if selection.follow:
        for lines in _chunks(source):
            _write(_present(lines, directory, wanted), sink)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Have SIGPROF end this process where what is done takes too much CPU time."""
    signal.setitimer(signal.ITIMER_PROF, CPU_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limited_by_line(chosen: Filter) -> Wanted:
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
