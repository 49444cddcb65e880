"""The verbs of qmonctl, the parser of their arguments, and what runs one of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final, NoReturn, Protocol

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
from qmond.errors import ArgumentError, RequestError

__all__ = ["parser", "run"]


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


def run(arguments: list[str] | None) -> int:
    """Run the verb that the arguments name; returns the exit status. Raises QmondError.

    Wrong arguments end the program with the verb's usage and status 2, also those that only the
    daemon knows to be wrong.
    """
    qmonctl = parser()
    words = joined(sys.argv[1:] if arguments is None else arguments)
    options, unknown = qmonctl.parse_known_args(words, argparse.Namespace(parser=qmonctl))
    if unknown:
        hint = "; put the command after --" if options.verb == "record" else ""
        _refuse(options, f"unrecognized arguments: {' '.join(unknown)}{hint}")
    try:
        return _VERBS[options.verb].run(options)
    except ArgumentError as error:
        _refuse(options, str(error))
    except RequestError as error:
        if error.kind == "BadArgument":
            _refuse(options, str(error))
        raise


def _refuse(options: argparse.Namespace, message: str) -> NoReturn:
    completion.verb_parsers(options.parser)[options.verb].error(message)


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path is expected")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of qmonctl's arguments."""
    qmonctl = argparse.ArgumentParser(
        prog="qmonctl",
        description="Ask the qmond daemon what programs under qemu-user do.",
        epilog="Exit status: 0; 1 if the daemon does not run, does not answer within 5 seconds or "
        "refuses, or a file cannot be read or written; 2 for wrong arguments; 130 after Ctrl-C. "
        "record has the exit status of its command.",
    )
    qmonctl.add_argument(
        "--socket",
        type=_path,
        metavar="PATH",
        help=f"the daemon's socket (default: $QMOND_SOCKET or {DEFAULT_SOCKET}); also after VERB",
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
        verb.add_argument("--socket", type=_path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        module.add_arguments(verb)
    return qmonctl
