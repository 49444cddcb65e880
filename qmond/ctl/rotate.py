"""Make the daemon begin a new log file, and print the path of the completed one."""

from __future__ import annotations

import argparse
import sys

from qmond.ctl.connection import connect

__all__ = ["add_arguments", "run"]


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""


def run(options: argparse.Namespace) -> int:
    """Send the request; print the path."""
    with connect(options.socket) as client:
        path = client.rotate()["path"]
    sys.stdout.write(f"{path}\n" if path else "")
    return 0
