"""Print a completion script for a shell.

qmonctl completion bash >/usr/share/bash-completion/completions/qmonctl
qmonctl completion zsh >/usr/share/zsh/vendor-completions/_qmonctl
qmonctl completion fish >/usr/share/fish/vendor_completions.d/qmonctl.fish
"""

from __future__ import annotations

import argparse
import sys

from qmond.events.table import PUBLIC

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab  # noqa: PLC0415 - only here

    parser: argparse.ArgumentParser = options.parser
    names = [event.name for event in PUBLIC]
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001
    for action in verbs.choices["tail"]._actions:  # noqa: SLF001 - argparse has no other way
        if action.dest in {"event", "not_event"}:
            action.choices = names
    sys.stdout.write(shtab.complete(parser, shell=options.shell) + "\n")
    return 0
