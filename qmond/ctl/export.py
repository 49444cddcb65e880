"""Convert events for other programs: to a trace for Perfetto or Chrome, or to CSV.

qmonctl export --format perfetto -o run.pftrace qmond-record-20261123T083452
qmonctl export --format csv /var/log/qmond/events.jsonl | head
qmonctl tail --no-follow --since 5m | qmonctl export --format perfetto -o now.pftrace -

FILE is a log (also .gz and .zst), a folder of logs, what `qmonctl record` wrote, or - for standard
input. The default is the daemon's log. Open a trace at ui.perfetto.dev. In CSV, text that a
spreadsheet would take for a formula gets an apostrophe in front, and control characters are
escaped, unless --exact is given. Lines that are not events, and events and keys of a later version,
are reported on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from qmond.ctl.interrupts import clean_up_on_ctrl_c
from qmond.errors import ArgumentError, QmondError

__all__ = ["DEFAULT_LOG", "add_arguments", "add_files", "run"]

DEFAULT_LOG: Final = Path("/var/log/qmond")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "--format",
        choices=("perfetto", "chrome", "csv"),
        required=True,
        help="a trace for Perfetto, a trace in Chrome's JSON, or CSV",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write to this file, not to standard output",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="CSV for programs: no apostrophe before formulas, control characters unchanged",
    )
    add_files(parser)


def add_files(parser: argparse.ArgumentParser) -> None:
    """Declare the files of a verb that reads logs."""
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        default=[DEFAULT_LOG],
        help=f"a log, a folder of logs, a record, or - (default: {DEFAULT_LOG})",
    )


def run(options: argparse.Namespace) -> int:
    """Write the converted events."""
    if options.exact and options.format != "csv":
        raise ArgumentError("--exact is for --format csv")
    on_terminal = options.output is None and sys.stdout.isatty()
    if on_terminal and options.format == "perfetto":
        raise QmondError("a Perfetto trace is binary", hint="write it to a file: -o run.pftrace")
    chunks = _chunks(options, shown=on_terminal or not options.exact)
    try:
        with _output(options) as out:
            for chunk in chunks:
                out.write(chunk)
            out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        where = options.output or "standard output"
        raise QmondError(f"{where}: {error.strerror}") from error
    return 0


def _output(options: argparse.Namespace) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Return the output, not yet opened. Raises ArgumentError if it is one of the inputs."""
    from qmond.ctl.formats.lines import files  # noqa: PLC0415
    from qmond.ctl.formats.output import written  # noqa: PLC0415

    inputs = list(files(options.files))
    if options.output is None:
        return contextlib.nullcontext(sys.stdout.buffer)
    with contextlib.suppress(FileNotFoundError):
        found = options.output.stat()
        if stat.S_ISREG(found.st_mode) and any(os.path.samestat(found, one) for one in inputs):
            raise ArgumentError(f"-o {options.output}: this file is an input")
    clean_up_on_ctrl_c()  # the incomplete file
    return written(options.output)


def _chunks(options: argparse.Namespace, *, shown: bool) -> Iterator[bytes]:
    """Return the bytes of the output, in chunks. Only the modules of the format are imported."""
    from qmond.ctl.formats.lines import read  # noqa: PLC0415

    events = read(options.files)
    if options.format == "perfetto":
        from qmond.ctl.formats.perfetto import packets  # noqa: PLC0415

        return packets(events)
    if options.format == "chrome":
        from qmond.ctl.formats.chrome import trace  # noqa: PLC0415

        return trace(events)
    from qmond.ctl.formats.table import table  # noqa: PLC0415

    return table(events, guarded=not options.exact, shown=shown)
