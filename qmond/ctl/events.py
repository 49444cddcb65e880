"""Print all events, and their keys.

qmonctl events                  the events, with their groups and meanings
qmonctl events READ net         the keys of these events, and of all events of a group
"""

from __future__ import annotations

import argparse
import sys

from qmond.ctl.show.text import columns, print_json
from qmond.errors import ArgumentError
from qmond.events.groups import resolve
from qmond.events.schema import keys, table
from qmond.events.table import BY_NAME, PUBLIC

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="print the keys of these events, or of a group's"
    )
    parser.add_argument(
        "--json", action="store_true", help="all events with their keys, as on the socket"
    )


def run(options: argparse.Namespace) -> int:
    """Print the table; it needs no daemon."""
    if options.json:
        print_json(table())
        return 0
    try:
        events = [BY_NAME[name] for name in resolve(options.names)]
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    if not events:
        listed = [(event.name, str(event.group), event.when) for event in PUBLIC]
        sys.stdout.write(columns(listed, ()))
    for event in events:
        rows = [
            (f"  {field.key}", field.json or field.form.value, field.unit, field.meaning)
            for field in keys(event)
        ]
        sys.stdout.write(f"{event.name}: {event.when}\n{columns(rows, ())}")
    return 0
