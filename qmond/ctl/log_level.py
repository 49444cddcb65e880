"""Print the least level of the daemon's own messages, or change it."""

from __future__ import annotations

import argparse
import sys

from qmond.ctl.connection import connect

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "level", nargs="?", choices=("debug", "info", "warning", "error"), help="the new level"
    )


def run(options: argparse.Namespace) -> int:
    """Send the request; print the level."""
    with connect(options.socket) as client:
        sys.stdout.write(client.log_level(options.level) + "\n")
    return 0
