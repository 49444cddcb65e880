"""What a recorded command did, in about ten lines for a person.

Results of calls are not known: so the text says what was asked for. Where not all fits in a line,
it says how many more there are, and in which file.
"""

from __future__ import annotations

import re
import signal
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from qmond.ctl.runs.digest import Digest, Process
from qmond.ctl.show.text import cut, printable, process_count, width

__all__ = ["Run", "lines"]

_Key = TypeVar("_Key")
_WIDTH: Final = 78
_LABEL: Final = 21
_REASONS_MAX: Final = 4
_CALLS: Final = {
    "connect": "asked to connect to",
    "bind": "asked to bind",
    "sendto": "asked to send to",
    "recvfrom": "received from",
}
_DULL: Final = re.compile(
    r"/proc/(self|\d+)/|/proc/sys/vm/|/sys/|/etc/ld\.so\.|/usr/(lib|share)/locale/|.*/gconv/|.*\.so(\.|$)"
)
"""Paths that the emulator and C libraries open by themselves, and also programs may."""
_STREAMS: Final = (1, 2)


class Run(NamedTuple):
    """A command that has ended, and after how many seconds."""

    words: Sequence[str]
    status: int
    seconds: float


def lines(digest: Digest, run: Run, missing: Sequence[str], output: str) -> Iterator[str]:
    """Yield the lines. `missing` are the reasons why the record at `output` is not complete."""
    yield _head(digest, run)
    yield from _row("ran", _programs_run(digest), "tree.txt")
    ran = {guest for process in digest.processes for _, guest in process.images}
    programs = _all(digest, lambda process: process.programs)
    yield from _row("asked to execute", [p for p in programs if p not in ran], "events.jsonl")
    yield from _row("asked to open", _by_interest(digest, ran), "files.txt")
    sockets = _all(digest, lambda process: process.sockets)
    for call, label in _CALLS.items():
        addresses = [address for name, address in sockets if name == call]
        yield from _row(label, addresses, "sockets.txt")
    yield from _row("asked to write", _written(digest), "events.jsonl")
    yield from _row("signals", _signals(digest), "events.jsonl")
    yield from _row("ended otherwise", _ends(digest), "tree.txt")
    yield from _verdict(missing)
    names = "tree.txt, files.txt, sockets.txt, events.jsonl, summary.json"
    yield f"  more in {printable(output)}: {names}\n"


def _head(digest: Digest, run: Run) -> str:
    guests = len(digest.processes)
    figures = f"{process_count(guests)}, {digest.counts.total()} events" if guests else "no guest"
    end = f": exit {run.status} after {run.seconds:.2f} s, {figures}"
    return cut(printable(" ".join(run.words)), _WIDTH - len(end)) + end + "\n"


def _verdict(missing: Sequence[str]) -> Iterator[str]:
    if not missing:
        yield "  complete: nothing is known to be missing\n"
        return
    rest = len(missing) - _REASONS_MAX
    more = [f"and {rest} more reasons in summary.json"] if rest > 0 else []
    text = "; ".join([*missing[:_REASONS_MAX], *more])
    wrapped = textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent="  NOT COMPLETE: ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    yield from (f"{line}\n" for line in wrapped)


def _row(label: str, items: Sequence[str], file: str) -> Iterator[str]:
    """Yield a line with as many items as fit, or nothing if there are none."""
    if not items:
        return
    room = _WIDTH - _LABEL - 2
    texts = [printable(item) for item in items[:room]]
    for shown in range(len(texts), 0, -1):
        more = _more(len(items) - shown, file)
        listed = ", ".join(texts[:shown])
        if width(listed + more) <= room:
            break
    yield f"  {label:{_LABEL}}{_end_of(listed, room - width(more))}{more}\n"


def _end_of(text: str, columns: int) -> str:
    """Return a text, cut to a width from its beginning: the end of a path tells most."""
    if width(text) <= columns:
        return text
    text = text[1 - columns :]
    while width(text) >= columns:
        text = text[1:]
    return "…" + text


def _more(count: int, file: str) -> str:
    return f", and {count} more in {file}" if count else ""


def _all(digest: Digest, counts: Callable[[Process], Counter[_Key]]) -> Iterable[_Key]:
    """Return what the processes have, each once, in order."""
    return dict.fromkeys(key for process in digest.processes for key in counts(process))


def _programs_run(digest: Digest) -> list[str]:
    images = dict.fromkeys(image for process in digest.processes for image in process.images)
    return [f"{guest} ({arch})" if arch else guest for arch, guest in images]


def _by_interest(digest: Digest, ran: set[str]) -> list[str]:
    """Return the opened paths: last those that the emulator may have opened for itself."""
    paths = _all(digest, lambda process: process.files)
    return sorted(paths, key=lambda path: path in ran or _DULL.match(path) is not None)


def _written(digest: Digest) -> list[str]:
    total: Counter[int] = Counter()
    for process in digest.processes:
        total += process.written
    found = [f"{total[fd]} bytes to descriptor {fd}" for fd in _STREAMS if total[fd]]
    others = sum(size for fd, size in total.items() if fd not in _STREAMS)
    return found + ([f"{others} bytes to others"] if others else [])


def _signals(digest: Digest) -> list[str]:
    """Return the signals with their numbers: those of children that ended last."""
    total: Counter[int] = Counter()
    for process in digest.processes:
        total += process.signals
    numbers = sorted(total, key=lambda number: (number == signal.SIGCHLD, number))
    return [f"{total[number]} {_name(number)}" for number in numbers]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _ends(digest: Digest) -> list[str]:
    """Return how processes ended that did not end with status 0."""
    return [
        f"{process.pid} {process.end or 'no end was seen'}"
        for process in digest.processes
        if process.end != "exit 0"
    ]
