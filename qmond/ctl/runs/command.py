"""Running a command: signals are forwarded to it, and orphans of its descendants are adopted."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from qmond.ctl.runs.ostext import text_of
from qmond.errors import QmondError

__all__ = [
    "adopting_orphans",
    "await_descendants",
    "children",
    "has_descendants",
    "holding_signals",
    "run",
]

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # the statuses of env(1) and timeout(1)
_FORWARDED: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_WAITED_FOR: Final = _FORWARDED | {signal.SIGCHLD}
_PR_SET_CHILD_SUBREAPER: Final = 36  # include/uapi/linux/prctl.h
_SLOW: Final = 1.0
"""Seconds of waiting for descendants until the user is told."""
_LOOK: Final = 1.0
"""Seconds until the command is looked at without a signal."""
_SLEEP_MAX: Final = 3600.0


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Make this process the parent of its orphaned descendants. Raises QmondError.

    So it is an ancestor of each descendant of the command, even if processes between them ended.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4  # variadic, with arguments of type long
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise QmondError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def holding_signals() -> Iterator[set[signal.Signals]]:
    """Block the signals that `run` waits for, in this thread and in threads that it starts.

    Yields the signal mask before that, for `run`. Signals that arrive after the end of the command
    are discarded.
    """
    # a signal that is ignored never becomes pending
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        yield {signal.Signals(number) for number in mask}
    finally:
        while signal.sigtimedwait(_WAITED_FOR, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, handler)


def run(words: list[str], mask: set[signal.Signals]) -> tuple[int, str]:
    """Run a command until it ends, within `holding_signals`, and forward signals to it.

    `mask` is the signal mask of the command. Returns the exit status as a shell reports it, and the
    error if the command could not be started, or "". Descendants of the command may run on.
    """
    if not words[0]:
        return _NOT_FOUND, "'': No such file or directory"
    default = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these; the command must not
    try:
        pid = os.posix_spawnp(words[0], words, os.environ, setsigmask=mask, setsigdef=default)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        status = _NOT_FOUND if is_missing else _NOT_EXECUTABLE
        return status, f"{text_of(words[0])}: {error.strerror}"
    return _await(pid), ""


def _await(command: int) -> int:
    while True:
        # where a thread of the caller does not block SIGCHLD, it may get it
        received = signal.sigtimedwait(_WAITED_FOR, _LOOK)
        if received is not None and received.si_signo != signal.SIGCHLD:
            if received.si_code <= 0:  # from a process; the terminal signals the command itself
                os.kill(command, received.si_signo)
            continue
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == command:
                    code = os.waitstatus_to_exitcode(ended[1])
                    return 128 - code if code < 0 else code


def await_descendants(seconds: float, tell: Callable[[], None]) -> None:
    """Wait until all descendants have ended, within `adopting_orphans` and `holding_signals`.

    Ends after `seconds`, or with a signal that `run` would forward. Calls `tell` if it takes long.
    """
    began = time.monotonic()
    slow, end = began + _SLOW, began + seconds
    is_told = False
    while has_descendants() and (now := time.monotonic()) < end:
        if not is_told and now >= slow:
            tell()
            is_told = True
        until = end if is_told else min(slow, end)
        received = signal.sigtimedwait(_WAITED_FOR, min(until - now, _SLEEP_MAX))
        if received is not None and received.si_signo != signal.SIGCHLD:
            return


def has_descendants() -> bool:
    """Whether any descendant still runs, within `adopting_orphans`."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def children() -> list[int]:
    """Return the process IDs of this process' children, if procfs has them."""
    with suppress(OSError):  # with CONFIG_PROC_CHILDREN
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
        return [int(word) for word in text.split()]
    return []
