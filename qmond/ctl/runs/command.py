"""A command that is run for somebody: started, given its signals, waited for, with what it left."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from qmond.errors import QmondError

__all__ = ["adopting_orphans", "holding_signals", "in_first_pid_namespace", "run"]

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # as env(1) and timeout(1) have them
_PASSED_ON: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_WAITED_FOR: Final = _PASSED_ON | {signal.SIGCHLD}
_FIRST_PID_NAMESPACE: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_PR_SET_CHILD_SUBREAPER: Final = 36  # include/uapi/linux/prctl.h


def in_first_pid_namespace() -> bool:
    """Say whether process IDs are here what they are in events."""
    return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Have this process be the parent of each descendant whose parent ends. Raises QmondError.

    So whoever descends from it has it among its ancestors, come what may.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4  # it is variadic, and takes longs
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise QmondError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def holding_signals() -> Iterator[set[signal.Signals]]:
    """Have signals wait until `run` looks for them, in this thread and those begun in it.

    Gives those that waited before. What comes after the command's end is nobody's any more.
    """
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored ones do not wait
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        yield {signal.Signals(number) for number in mask}
    finally:
        while signal.sigtimedwait(_WAITED_FOR, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, handler)


def run(words: list[str], mask: set[signal.Signals]) -> tuple[int, str]:
    """Run a command until it ends; returns its exit status as a shell has it, and why it has none.

    It gets the signals that are for this process, which holds them; `mask` are those that it holds
    itself. Its descendants may live on.
    """
    given = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores these two, and a command would too
    try:
        pid = os.posix_spawnp(words[0], words, os.environ, setsigmask=mask, setsigdef=given)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        return _NOT_FOUND if absent else _NOT_EXECUTABLE, f"{words[0]}: {error.strerror}"
    return _await(pid), ""


def _await(command: int) -> int:
    while True:
        got = signal.sigwaitinfo(_WAITED_FOR)
        if got.si_signo != signal.SIGCHLD:
            if got.si_code <= 0:  # of a process; the terminal's reach the command by themselves
                os.kill(command, got.si_signo)
            continue
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == command:
                    code = os.waitstatus_to_exitcode(ended[1])
                    return 128 - code if code < 0 else code
