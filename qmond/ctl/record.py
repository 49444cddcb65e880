"""Run a command, and record what it and all its descendants do.

qmonctl record -- ./firmware-test               into qmond-record-20261123T083452/
qmonctl record -o run1 -- sh -c 'make check'
qmonctl record -o run1.tar.gz --event EXEC,CONNECT -- qemu-arm-static ./sample

The record has events.jsonl (the lines of the command's process tree), summary.json (the command,
its exit status, counts, and whether the record is complete), tree.txt, files.txt and sockets.txt:
see docs/record.md. Only the owner can read it.

Exit status: that of the command; 128 plus the signal's number if a signal ended it; 127 if there is
no such command, 126 if it cannot be executed, 125 if qmonctl failed; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qmond.ctl.interrupts import clean_up_on_ctrl_c
from qmond.ctl.runs import ARCHIVES
from qmond.ctl.show.text import printable
from qmond.ctl.tail import event_names
from qmond.errors import ArgumentError, QmondError
from qmond.lognames import LIVE

if TYPE_CHECKING:
    from qmond.ctl.runs.recording import Recording

__all__ = ["add_arguments", "run"]

_FAILED: Final = 125  # the status of env(1) and timeout(1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR|FILE.tar.gz",
        help="a folder or an archive, which must not exist",
    )
    parser.add_argument(
        "--event",
        action="append",
        metavar="NAME",
        help="write only these events to events.jsonl: a comma-separated list, or several times",
    )
    parser.add_argument(
        "command", nargs="+", metavar="CMD", help="the command and its arguments, after --"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status, or 125 if the record cannot be written."""
    from qmond.ctl.runs.recording import Recording  # noqa: PLC0415 - no other verb needs it

    clean_up_on_ctrl_c()
    output = options.output or Path(f"qmond-record-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    events = frozenset(event_names(options.event) or ()) or None
    try:
        recording = Recording(options.socket, options.command, events)
        with _folder(output) as folder:
            with open(folder / LIVE, "xb", opener=_private) as out:
                status, fault = recording.run(out)
            recording.write(folder)
    except OSError as error:
        return _fail(f"{error.filename or output}: {error.strerror}")
    except ArgumentError:
        raise
    except QmondError as error:
        return _fail(str(error))
    if recording.write_error:
        return _fail(
            f"{output}: {recording.write_error.strerror}; the command's exit status was {status}"
        )
    if fault:
        sys.stderr.write(f"qmonctl: {printable(fault)}\n")
    sys.stderr.write(f"qmonctl: {output}: {_verdict(recording)}\n")
    return status


def _verdict(recording: Recording) -> str:
    """Return the result in one line: the size of the record, and whether it is complete."""
    counts = recording.digest.counts
    if not counts:
        return "no events: qmond watches only qemu-user processes and their descendants"
    size = f"{counts.total()} events of {len(recording.digest.processes)} processes, "
    missing = recording.missing
    return size + ("complete" if not missing else "NOT COMPLETE: " + "; ".join(missing))


def _fail(message: str) -> int:
    sys.stderr.write(f"qmonctl: {message}\n")
    return _FAILED


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write to. It is packed at the end, if `output` names an archive.

    Raises OSError; if `output` exists, before the body of the `with` statement.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    if not output.name.endswith(ARCHIVES):
        output.mkdir(mode=0o700)  # it contains what processes read and wrote
        yield output
        return

    import tarfile  # noqa: PLC0415 - only for archives
    import tempfile  # noqa: PLC0415

    def private(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mode &= 0o700
        return member

    name = output.name.removesuffix(".tgz").removesuffix(".tar.gz")
    with open(output, "xb", opener=_private) as file, contextlib.ExitStack() as stack:
        stack.callback(output.unlink)
        temporary = tempfile.TemporaryDirectory(prefix=".qmond-record-", dir=output.parent)
        folder = stack.enter_context(temporary)
        yield Path(folder)
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            archive.add(folder, arcname=name, filter=private)
        temporary.cleanup()
        stack.pop_all()
