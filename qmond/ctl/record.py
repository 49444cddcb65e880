"""Run a command, and record what it and all its descendants do.

qmonctl record -- ./firmware-test               into qmond-record-20261123T083452/
qmonctl record -o run1 -- sh -c 'make check'
qmonctl record -o run1.tar.gz --event EXEC,CONNECT -- qemu-arm-static ./sample
qmonctl record --wait forever -- ./start-daemon  until the last process has ended

The record has events.jsonl (the lines of the command's process tree), summary.json (the command,
its exit status, counts, and whether the record is complete), summary.txt, tree.txt, files.txt and
sockets.txt: see docs/record.md. Only the owner can read it.

Exit status: that of the command; 128 plus the signal's number if a signal ended it; 127 if there is
no such command, 126 if it cannot be executed, 125 if qmonctl failed; 2 for wrong arguments. 124 if
the command ended with 0 and no guest was seen.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qmond.ctl.commandline import listed
from qmond.ctl.interrupts import clean_up_on_ctrl_c
from qmond.ctl.runs import ARCHIVES
from qmond.ctl.runs.ostext import text_of
from qmond.ctl.show.text import complaint, fault, printable, process_count
from qmond.errors import ArgumentError, QmondError
from qmond.lognames import LIVE
from qmond.units import parse_seconds

if TYPE_CHECKING:
    from qmond.ctl.runs.recording import Recording

__all__ = ["add_arguments", "run"]

_NO_GUEST, _FAILED = 124, 125  # the latter is that of env(1) and timeout(1)
_NO_ARCHIVES: Final = (".zip", ".tar", ".gz", ".xz", ".bz2", ".zst")
_WAIT: Final = 10.0
"""Seconds that are waited for processes which the command left."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "-o",
        "--output",
        type=_output,
        metavar="DIR|FILE.tgz",
        help="a folder or an archive, which must not exist",
    )
    parser.add_argument(
        "--event",
        action="append",
        metavar="NAME",
        help="write only these events or groups to events.jsonl: a comma-separated list, or "
        "several times; -NAME leaves one out: --event=-SCHED_SWITCH",
    )
    parser.add_argument(
        "--wait",
        type=_wait,
        default=_WAIT,
        metavar="TIME",
        help="after the end of the command, wait so long for processes that it left: such as 1m, "
        "0 or forever; ^C ends the wait (default: 10s)",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print one line at the end, not a summary"
    )
    parser.add_argument(
        "command", nargs="+", metavar="CMD", help="the command and its arguments, after --"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit status, or one of record's own."""
    from qmond.ctl.runs.recording import Recording  # noqa: PLC0415 - no other verb needs it

    clean_up_on_ctrl_c()
    output: Path | None = options.output
    status = None
    try:
        recording = Recording(options.socket, options.command, listed(options.event))
        with _folder(output) as (output, folder):
            with open(folder / LIVE, "xb", opener=_private) as out:
                status, why_not = recording.run(out, options.wait, _tell)
            text = recording.write(folder, output)
    except OSError as error:
        return _fail(f"{error.filename or output}: {error.strerror}{_given_up(status)}")
    except ArgumentError:
        raise
    except QmondError as error:
        return _fail(str(error))
    except Exception as error:  # noqa: BLE001 - status 1 would be taken for the command's
        return _fail(fault(error) + _given_up(status))
    if recording.write_error:
        return _fail(f"{output}: {recording.write_error.strerror}{_given_up(status)}")
    if why_not:
        sys.stderr.write(complaint(why_not))
    if options.quiet:
        text = f"qmonctl: {printable(text_of(str(output)))}: {_verdict(recording)}\n"
    sys.stderr.write(text)
    return _NO_GUEST if status == 0 and not recording.digest.processes else status


def _given_up(status: int | None) -> str:
    """Return what is told of a record that could not be written whole, if its command has run."""
    if status is None:
        return ""
    return f"; the record is not complete; the command's exit status was {status}"


def _tell(text: str) -> None:
    sys.stderr.write(f"qmonctl: {text}\n")


def _verdict(recording: Recording) -> str:
    """Return the result in one line: the size of the record, and whether it is complete."""
    digest, missing = recording.digest, recording.missing
    size = f"{digest.counts.total()} events of {process_count(len(digest.processes))}, "
    reasons = printable("; ".join(missing))
    return size + (f"NOT COMPLETE: {reasons}" if missing else "complete")


def _output(text: str) -> Path:
    """Parse the value of --output."""
    is_other = text.endswith(_NO_ARCHIVES) and not text.endswith(ARCHIVES)
    if not text or is_other:
        raise argparse.ArgumentTypeError(
            f"a folder, or an archive that ends in {' or '.join(ARCHIVES)}, is needed, not {text!r}"
        )
    return Path(text)


def _wait(text: str) -> float:
    """Parse the value of --wait to seconds."""
    if text in {"0", "forever"}:
        return 0.0 if text == "0" else math.inf
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, 0 or forever, is needed") from error


def _fail(message: str) -> int:
    sys.stderr.write(complaint(message))
    return _FAILED


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _new_folder() -> Path:
    """Make a folder with a name of its own, also if others begin in the same second."""
    name = f"qmond-record-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for number in count(1):
        folder = Path(name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            break
    return folder


@contextlib.contextmanager
def _folder(output: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield the record's name, and a folder to write to. It is packed if the name is an archive's.

    Raises OSError; if `output` exists, before the body of the `with` statement.
    """
    if output is None:
        folder = _new_folder()
        yield folder, folder
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    if not output.name.endswith(ARCHIVES):
        output.mkdir(mode=0o700)  # it contains what processes read and wrote
        yield output, output
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
        unpacked = stack.enter_context(temporary)
        yield output, Path(unpacked)
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            archive.add(unpacked, arcname=name, filter=private)
        temporary.cleanup()
        stack.pop_all()
