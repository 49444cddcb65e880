"""Show the watched processes live: how many events each makes, and of which types.

Keys: s sort by the next column, r reverse, p pause, q quit.
"""

from __future__ import annotations

import argparse
import sys

from qmond.client import Client
from qmond.ctl.connection import connect
from qmond.ctl.interrupts import clean_up_on_ctrl_c
from qmond.ctl.show.sampling import COLUMNS, Sampler
from qmond.errors import QmondError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "--sort",
        choices=COLUMNS,
        default="EV/S",
        help="the column to sort by (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Run until the user quits."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise QmondError("top needs a terminal", hint="for programs: `qmonctl ps --json`")

    def ask() -> Client:
        return connect(options.socket)

    ask().close()  # fails before the screen opens, if there is no daemon
    from qmond.ctl.show.screen import Top  # noqa: PLC0415 - textual takes a fifth of a second

    clean_up_on_ctrl_c()  # the terminal
    screen = Top(Sampler(ask), options.sort)
    screen.run()
    return screen.return_code or 0
