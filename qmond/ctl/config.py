"""Print the configuration in force, as JSON: sizes in bytes, times in seconds."""

from __future__ import annotations

import argparse
import sys

from qmond.client import Client
from qmond.ctl.show.text import json_text

__all__ = ["add_arguments", "run"]


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""


def run(options: argparse.Namespace) -> int:
    """Print the configuration."""
    with Client(options.socket) as client:
        sys.stdout.write(json_text(client.config()))
    return 0
