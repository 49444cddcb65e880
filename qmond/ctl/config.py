"""Print the configuration in force, as JSON: sizes in bytes, times in seconds."""

from __future__ import annotations

import argparse

from qmond.ctl.connection import connect
from qmond.ctl.show.text import print_json

__all__ = ["add_arguments", "run"]


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""


def run(options: argparse.Namespace) -> int:
    """Print the configuration."""
    with connect(options.socket) as client:
        print_json(client.config())
    return 0
