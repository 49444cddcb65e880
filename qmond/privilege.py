"""How a process that talks to strangers gives up what it may, for good."""

from __future__ import annotations

import ctypes
import signal
from struct import pack
from typing import Final

__all__ = ["die_with_parent", "drop_all"]

_VERSION_3: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: include/uapi/linux/capability.h
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS, _AMBIENT = 1, 4, 38, 47  # include/uapi/linux/prctl.h
_CLEAR_ALL: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it has ended."""
    _prctl(_PDEATHSIG, signal.SIGKILL)


def drop_all() -> None:
    """Give up every capability, and every way to get one; nobody may look into this process."""
    _prctl(_NO_NEW_PRIVS, 1)
    _prctl(_AMBIENT, _CLEAR_ALL)
    if _libc.capset(pack("=Ii", _VERSION_3, 0), bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
