"""Make the daemon read its configuration again. If it has a fault, the old one stays in force."""

from __future__ import annotations

import argparse
import sys

from qmond.ctl.connection import connect

__all__ = ["add_arguments", "run"]


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""


def run(options: argparse.Namespace) -> int:
    """Send the request; name the keys that need a restart."""
    with connect(options.socket) as client:
        keys = client.reload()["restart"]
    if keys:
        sys.stderr.write(f"qmonctl: these keys change only with a restart: {', '.join(keys)}\n")
    return 0
