"""Print all events, and their keys.

qmonctl events                  the events, with their meanings
qmonctl events READ EXIT        the keys of these events
"""

from __future__ import annotations

import argparse
import sys

from qmond.ctl.show.text import columns, print_json
from qmond.errors import ArgumentError
from qmond.events.schema import keys, table
from qmond.events.table import BY_NAME, PUBLIC

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="print the keys of these events")
    parser.add_argument(
        "--json", action="store_true", help="all events with their keys, as on the socket"
    )


def run(options: argparse.Namespace) -> int:
    """Print the table; it needs no daemon."""
    if options.json:
        print_json(table())
        return 0
    names = [name.upper() for name in options.names]
    if unknown := [name for name in names if name not in BY_NAME or BY_NAME[name].internal]:
        raise ArgumentError(f"unknown: {', '.join(unknown)}", hint="`qmonctl events` lists all")
    if not names:
        sys.stdout.write(columns([(event.name, event.when) for event in PUBLIC], ()))
    for name in names:
        event = BY_NAME[name]
        rows = [
            (f"  {field.key}", field.json or field.form.value, field.unit, field.meaning)
            for field in keys(event)
        ]
        sys.stdout.write(f"{event.name}: {event.when}\n{columns(rows, ())}")
    return 0
