"""Make the daemon read its configuration again. If it has a fault, the old one stays in force."""

from __future__ import annotations

import argparse
import sys

from qmond.client import Client

__all__ = ["add_arguments", "run"]


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""


def run(options: argparse.Namespace) -> int:
    """Ask the daemon."""
    with Client(options.socket) as client:
        later = client.reload()["restart"]
    if later:
        sys.stderr.write(f"qmonctl: these keys change only with a restart: {', '.join(later)}\n")
    return 0
