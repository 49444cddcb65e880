"""Print a completion script for a shell.

qmonctl completion bash >/usr/share/bash-completion/completions/qmonctl
qmonctl completion zsh >/usr/share/zsh/vendor-completions/_qmonctl
qmonctl completion fish >/usr/share/fish/vendor_completions.d/qmonctl.fish
"""

from __future__ import annotations

import argparse
import sys

from qmond.events.table import PUBLIC

__all__ = ["add_arguments", "run", "verb_parsers"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "shell", choices=("bash", "zsh", "fish"), help="the shell to print a script for"
    )


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab  # noqa: PLC0415 - no other verb needs it

    parser: argparse.ArgumentParser = options.parser
    names = [event.name for event in PUBLIC]
    for action in verb_parsers(parser)["tail"]._actions:  # noqa: SLF001 - argparse has no other way
        if action.dest in {"event", "not_event"}:
            action.choices = names
    sys.stdout.write(shtab.complete(parser, shell=options.shell) + "\n")
    return 0


def verb_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each verb, by its name."""
    return next(
        dict(action.choices)
        for action in parser._actions  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    )
