"""The edge of qmonctl: its streams, and every error as a line of text and an exit status."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from qmond.ctl import verbs
from qmond.ctl.interrupts import end_on_ctrl_c
from qmond.ctl.show.text import complaint, fault
from qmond.errors import QmondError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["run"]

_FAILED: Final = 1
_MISSING: Final = (("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_RDONLY))
"""How a missing stream is opened: the wrong way round, so that its use is an error."""


def run(arguments: list[str] | None) -> int:
    """Run qmonctl as `main` does. Raises KeyboardInterrupt."""
    if arguments is not None:
        return _guarded(arguments)
    try:
        _open_streams()
        return _guarded(None)
    finally:
        end_on_ctrl_c()
        _settle_output()


def _guarded(arguments: list[str] | None) -> int:
    """Run a verb. Whatever fails is told in a line, on standard error."""
    try:
        return _flushed(arguments)
    except BrokenPipeError:  # the reader of the pipe has ended
        return 0
    except QmondError as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'standard output'}: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - the program's edge: a user sees no traceback
        _complain(fault(error))
    return _FAILED


def _flushed(arguments: list[str] | None) -> int:
    """Run a verb. Its last output is written here, where an error is still handled."""
    try:
        status = verbs.run(arguments)
    except SystemExit:  # argparse has printed a help text, or refused the arguments
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def _complain(message: str) -> None:
    sys.stderr.write(complaint(message))


# ---- the standard streams --------------------------------------------------------------------


class _Messages(io.FileIO):
    """Standard error: a message that cannot be written changes neither the work nor the status."""

    def write(self, data: Buffer, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def _open_streams() -> None:
    """Make the standard streams safe to use: missing ones, and characters that they lack.

    No other file must get the number of a missing stream, nor what is written to it.
    """
    for fd, (name, flags) in enumerate(_MISSING):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(
        _Messages(2, "w", closefd=False),
        encoding=sys.stderr.encoding,
        errors="backslashreplace",
        write_through=True,
    )


def _settle_output() -> None:
    """Drop what cannot be written, so that the interpreter does not complain about it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
