"""BPF maps by bpf(2), without libbpf.

The commands and their attributes are those of union bpf_attr in Linux' include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import time
from collections.abc import Iterator
from struct import Struct
from typing import Final

__all__ = ["Map", "bpf", "possible_cpus", "synchronize"]

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283}
_LOOKUP, _UPDATE, _DELETE, _NEXT_KEY = 1, 2, 3, 4
_NOEXIST = 1
_ELEMENT = Struct("=IIQQQ")  # map_fd, padding, key, value or next_key, flags

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """Ask the kernel by the system call bpf; returns its result. Raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = _SYSCALL[platform.machine()]
    result: int = _libc.syscall(number, command, buffer, ctypes.c_uint(len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def synchronize() -> None:
    """Wait until all BPF programs that run now have ended.

    They run with preemption disabled, and membarrier(2) waits for an RCU grace period. If the
    kernel has no membarrier, sleep instead.
    """
    if _libc.syscall(_MEMBARRIER[platform.machine()], 1, 0, 0) < 0:  # MEMBARRIER_CMD_GLOBAL
        time.sleep(0.02)


def possible_cpus(text: str | None = None) -> int:
    """Return the number of possible CPUs: a per-CPU map has one value for each."""
    if text is None:
        with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
            text = file.read()
    return sum(
        int(last or first) - int(first) + 1
        for first, _, last in (part.partition("-") for part in text.strip().split(","))
    )


class Map:
    """A BPF map, by its descriptor. Keys and values are bytes.

    `value_size` is the size of one value. In a per-CPU map, a value has `cpus` of them, each
    padded to a multiple of 8 bytes.
    """

    def __init__(self, fd: int, key_size: int, value_size: int, *, cpus: int = 1) -> None:
        self.fd = fd
        self._key = ctypes.create_string_buffer(key_size)
        self._next = ctypes.create_string_buffer(key_size)
        size = value_size if cpus == 1 else (value_size + 7) // 8 * 8
        self._value = ctypes.create_string_buffer(size * cpus)

    def __getitem__(self, key: bytes) -> bytes:
        try:
            self._call(_LOOKUP, key)
        except OSError as error:
            raise _missing(error, key) from error
        return self._value.raw

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._value.raw = value
        self._call(_UPDATE, key)

    def __delitem__(self, key: bytes) -> None:
        try:
            self._call(_DELETE, key)
        except OSError as error:
            raise _missing(error, key) from error

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys. If keys are deleted meanwhile, some may be left out or come twice."""
        key: bytes | None = None
        while True:
            try:
                key = self._following(key)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            yield key

    def insert(self, key: bytes, value: bytes) -> bool:
        """Set a value if the key does not exist; returns whether it was set."""
        self._value.raw = value
        try:
            self._call(_UPDATE, key, _NOEXIST)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return False
            raise
        return True

    def _call(self, command: int, key: bytes, flags: int = 0) -> None:
        self._key.raw = key
        value = 0 if command == _DELETE else ctypes.addressof(self._value)
        bpf(command, _ELEMENT.pack(self.fd, 0, ctypes.addressof(self._key), value, flags))

    def _following(self, key: bytes | None) -> bytes:
        if key is not None:
            self._key.raw = key
        at = ctypes.addressof(self._key) if key is not None else 0
        bpf(_NEXT_KEY, _ELEMENT.pack(self.fd, 0, at, ctypes.addressof(self._next), 0))
        return self._next.raw


def _missing(error: OSError, key: bytes) -> Exception:
    return KeyError(key) if error.errno == errno.ENOENT else error
