"""Guests: which program an interpreter runs, for which architecture, and where it is."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["architecture", "guest_of", "whole_path"]

_INTERPRETER: Final = re.compile(r"qemu-([a-z0-9_]+?)(-static)?")

_WITH_ARGUMENT: Final = frozenset(
    "0 B D E L R U cpu d dfilter g p plugin r rtsig-map s seed tb-size trace".split()  # noqa: SIM905
)
"""Options of qemu-user that take an argument: linux-user/main.c, QEMU 7.2 to 9.2."""


def architecture(name: str) -> str | None:
    """Return the guest architecture in an interpreter's file name: arm of `qemu-arm-static`."""
    match = _INTERPRETER.fullmatch(name)
    return match[1] if match else None


def guest_of(
    filename: bytes, argv: list[bytes], *, emulated: bool, interpreted: bool
) -> bytes | None:
    """Return the path of the guest program, from the arguments of execve.

    `emulated` says that the executed file is qemu-user. `interpreted` says that binfmt_misc put it
    in front of the requested program, whose path is then the first argument.
    """
    if not emulated:
        return filename
    if interpreted:
        return argv[1] if len(argv) > 1 else filename
    words = iter(argv[1:])
    for word in words:
        if not word.startswith(b"-"):
            return word
        option = word[1:].removeprefix(b"-")
        if not option:
            return next(words, None)
        if option.decode(errors="replace") in _WITH_ARGUMENT:
            next(words, None)
    return None


def whole_path(cwd: bytes, path: bytes) -> bytes:
    """Return a relative path in a directory as an absolute one, without `./` at its front."""
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    return b"%b/%b" % (cwd.removesuffix(b"/"), path)
