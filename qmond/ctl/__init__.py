"""`qmonctl`: the command-line client of the daemon. It uses only the daemon's socket."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final, Protocol

from qmond import __version__
from qmond.client import DEFAULT_SOCKET
from qmond.ctl import (
    completion,
    config,
    doctor,
    events,
    export,
    log_level,
    ps,
    query,
    record,
    reload,
    rotate,
    status,
    tail,
    top,
    tree,
)
from qmond.ctl.commandline import joined
from qmond.errors import QmondError

__all__ = ["main", "parser"]


class Verb(Protocol):
    """A verb of qmonctl: the functions of its module. The module's docstring is the verb's help."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments of the verb."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the verb; returns the exit status. Raises QmondError."""


_VERBS: Final[dict[str, Verb]] = {
    "tail": tail,
    "ps": ps,
    "tree": tree,
    "top": top,
    "status": status,
    "events": events,
    "config": config,
    "log-level": log_level,
    "rotate": rotate,
    "reload": reload,
    "record": record,
    "export": export,
    "query": query,
    "doctor": doctor,
    "completion": completion,
}


def main(arguments: list[str] | None = None) -> int:
    """Run qmonctl; returns the exit status. The default arguments are those of the command line."""
    qmonctl = parser()
    words = joined(sys.argv[1:] if arguments is None else arguments)
    options = qmonctl.parse_args(words, argparse.Namespace(parser=qmonctl))
    try:
        return _VERBS[options.verb].run(options)
    except QmondError as error:
        sys.stderr.write(f"qmonctl: {error}\n")
        return 1
    except BrokenPipeError:  # the reader of the pipe has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of qmonctl's arguments."""
    qmonctl = argparse.ArgumentParser(
        prog="qmonctl",
        description="Ask the qmond daemon what programs under qemu-user do.",
        epilog="Exit status: 0; 1 if the daemon does not run or refuses, or a file cannot be read; "
        "2 for wrong arguments. record has the exit status of its command.",
    )
    qmonctl.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help=f"the daemon's socket (default: $QMOND_SOCKET or {DEFAULT_SOCKET})",
    )
    qmonctl.add_argument("--version", action="version", version=f"qmonctl {__version__}")
    verbs = qmonctl.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in _VERBS.items():
        description = (module.__doc__ or "").strip()
        verb = verbs.add_parser(
            name,
            help=description.splitlines()[0].rstrip("."),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
    return qmonctl
