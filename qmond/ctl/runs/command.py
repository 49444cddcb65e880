"""Running a command: signals are forwarded to it, and orphans of its descendants are adopted."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from qmond.errors import QmondError

__all__ = ["adopting_orphans", "holding_signals", "in_first_pid_namespace", "run"]

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # the statuses of env(1) and timeout(1)
_FORWARDED: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_WAITED_FOR: Final = _FORWARDED | {signal.SIGCHLD}
_FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_PR_SET_CHILD_SUBREAPER: Final = 36  # include/uapi/linux/prctl.h


def in_first_pid_namespace() -> bool:
    """Whether this is the host's PID namespace, whose process IDs the events have."""
    return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE


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
    default = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these; the command must not
    try:
        pid = os.posix_spawnp(words[0], words, os.environ, setsigmask=mask, setsigdef=default)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        return _NOT_FOUND if is_missing else _NOT_EXECUTABLE, f"{words[0]}: {error.strerror}"
    return _await(pid), ""


def _await(command: int) -> int:
    while True:
        received = signal.sigwaitinfo(_WAITED_FOR)
        if received.si_signo != signal.SIGCHLD:
            if received.si_code <= 0:  # from a process; the terminal signals the command itself
                os.kill(command, received.si_signo)
            continue
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == command:
                    code = os.waitstatus_to_exitcode(ended[1])
                    return 128 - code if code < 0 else code
