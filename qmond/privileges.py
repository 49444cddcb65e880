"""Capabilities: keep them for child processes only, or give them up for good.

The kernel's interface is capset(2), capabilities(7) and prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from struct import Struct
from typing import Final

__all__ = ["die_with_parent", "drop_all", "is_permitted", "lower"]

_VERSION: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: include/uapi/linux/capability.h
_HEADER: Final = Struct("=Ii")  # version, pid
_SETS: Final = Struct("=IIIIII")  # effective, permitted, inheritable; then their upper halves
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS, _AMBIENT = 1, 4, 38, 47  # include/uapi/linux/prctl.h
_CLEAR_ALL: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def lower(works: Callable[[], object]) -> bool:
    """Empty the effective set of this thread; returns whether that was done.

    The capabilities stay permitted and ambient, so that child processes have them. `works` raises
    OSError if the daemon cannot work without them: then they are restored. Nothing is changed for
    root, who needs a capability to give files to groups.
    """
    if os.geteuid() == 0:
        return False
    before = _get()
    _, permitted, inheritable, _, permitted_high, inheritable_high = before
    _set((0, permitted, inheritable, 0, permitted_high, inheritable_high))
    try:
        works()
    except OSError:
        _set(before)
        return False
    return True


def is_permitted(*numbers: int) -> bool:
    """Whether all of these capabilities are permitted to this process."""
    permitted = _get()[1]
    return all(permitted >> number & 1 for number in numbers)


def drop_all() -> None:
    """Give up all capabilities for good, and forbid that others trace this process."""
    _prctl(_NO_NEW_PRIVS, 1)
    _prctl(_AMBIENT, _CLEAR_ALL)
    _set((0,) * 6)
    _prctl(_DUMPABLE, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _prctl(_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0))


def _get() -> tuple[int, ...]:
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0), _HEADER.size)
    sets = ctypes.create_string_buffer(_SETS.size)
    _check(_libc.capget(header, sets))
    return _SETS.unpack(sets.raw)


def _set(sets: tuple[int, ...]) -> None:
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0), _HEADER.size)
    _check(_libc.capset(header, ctypes.create_string_buffer(_SETS.pack(*sets), _SETS.size)))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
