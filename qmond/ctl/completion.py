"""Print a completion script for a shell.

qmonctl completion bash >/usr/share/bash-completion/completions/qmonctl
qmonctl completion zsh >/usr/share/zsh/vendor-completions/_qmonctl
qmonctl completion fish >/usr/share/fish/vendor_completions.d/qmonctl.fish
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from qmond.client import Client
from qmond.errors import ArgumentError, QmondError
from qmond.events.architectures import ARCHITECTURES
from qmond.events.groups import groups
from qmond.events.table import PUBLIC

__all__ = ["add_arguments", "run", "verb_parsers"]

_HARMLESS: Final = re.compile(r"[\w./+@:-]+", re.ASCII)
"""A word that no shell takes for anything else; a guest's path may have any character."""
_ANSWER_MAX: Final = 0.5
"""Seconds that a user waits for the daemon at a press of Tab."""

_ASKED: Final[dict[str, Callable[[dict[str, Any]], object]]] = {
    "guests": lambda process: process["guest"] or "",
    "pids": lambda process: process["pid"],
}
"""The words that only the daemon has, by their kind: what they are of a watched process."""

_FUNCTIONS: Final = {
    "event": "events",
    "not_event": "events",
    "names": "events",
    "arch": "architectures",
    "guest": "guests",
    "pid": "pids",
    "tree": "pids",
    "command": "command_or_file",
    "files": "file",
    "output": "file",
    "socket": "file",
}
"""The function that completes an argument, by the argument's name: `_qmonctl_` and this."""

_SCRIPTS: Final = {
    "bash": r"""
# The last item of a list with commas; $2: all words
_qmonctl_items() {
  local last=${1##*,}
  compgen -P "${1%"$last"}" -W "$2" -- "$last"
}
_qmonctl_events() { _qmonctl_items "$1" "@EVENTS@"; }
_qmonctl_architectures() { _qmonctl_items "$1" "@ARCHITECTURES@"; }
_qmonctl_guests() { compgen -W "$(command qmonctl completion --words guests 2>/dev/null)" -- "$1"; }
_qmonctl_pids() { compgen -W "$(command qmonctl completion --words pids 2>/dev/null)" -- "$1"; }
_qmonctl_command_or_file() {
  local previous=${COMP_WORDS[COMP_CWORD - 1]}
  [[ $previous == -- || $previous == record ]] && compgen -c -- "$1"
  compgen -f -- "$1"
}
_qmonctl_file() { compgen -f -- "$1"; }
""",
    "zsh": r"""
_qmonctl_events() { _values -s , event @EVENTS@ }
_qmonctl_architectures() { _values -s , architecture @ARCHITECTURES@ }
_qmonctl_guests() { compadd -- ${(f)"$(command qmonctl completion --words guests 2>/dev/null)"} }
_qmonctl_pids() { compadd -- ${(f)"$(command qmonctl completion --words pids 2>/dev/null)"} }
_qmonctl_command_or_file() { _normal }
_qmonctl_file() { _files }
""",
    "fish": r"""
# The last item of a list with commas; $argv: all words
function _qmonctl_items
  set -l given (string replace -r '^--?[^=]*=' '' -- (commandline -ct))
  set -l before (string replace -r '[^,]*$' '' -- $given)
  for word in $argv
    echo $before$word
  end
end
function _qmonctl_events
  _qmonctl_items @EVENTS@
end
function _qmonctl_architectures
  _qmonctl_items @ARCHITECTURES@
end
function _qmonctl_guests
  command qmonctl completion --words guests 2>/dev/null
end
function _qmonctl_pids
  command qmonctl completion --words pids 2>/dev/null
end
function _qmonctl_command_or_file
  set -l words (commandline -opc)
  while set -q words[1]; and test $words[1] != --
    set -e words[1]
  end
  set -e words[1]
  complete -C (string join ' ' -- (string escape -- $words) (commandline -ct))
end
function _qmonctl_file
  __fish_complete_path (commandline -ct)
end
""",
}
"""The functions, in the language of each shell."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "shell", nargs="?", choices=tuple(_SCRIPTS), help="the shell to print a script for"
    )
    parser.add_argument("--words", choices=tuple(_ASKED), help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Print the script, or words of which a script asks."""
    if options.words:
        sys.stdout.writelines(f"{word}\n" for word in _words(options))
        return 0
    if options.shell is None:
        raise ArgumentError("bash, zsh or fish is required")
    import shtab  # noqa: PLC0415 - no other verb needs it

    parser: argparse.ArgumentParser = options.parser
    shell: str = options.shell
    for verb in (parser, *verb_parsers(parser).values()):
        for action in verb._actions:  # noqa: SLF001 - argparse has no other way
            if action.dest in _FUNCTIONS and action.choices is None:
                name = f"_qmonctl_{_FUNCTIONS[action.dest]}"
                action.complete = {shell: f"({name})" if shell == "fish" else name}  # type: ignore[attr-defined] # shtab's
            if action.dest == "command":
                action.nargs = argparse.REMAINDER  # a command line of its own
    sys.stdout.write(shtab.complete(parser, shell=shell, preamble=_functions(shell)) + "\n")
    return 0


def _functions(shell: str) -> str:
    events = " ".join([*(event.name for event in PUBLIC), *groups()])
    script = _SCRIPTS[shell].replace("@EVENTS@", events)
    return script.replace("@ARCHITECTURES@", " ".join(ARCHITECTURES))


def _words(options: argparse.Namespace) -> list[str]:
    """Return what the watched processes have of one kind; nothing if the daemon does not answer."""
    with suppress(QmondError), Client(options.socket, timeout=_ANSWER_MAX) as client:
        found = {str(_ASKED[options.words](process)) for process in client.ps()}
        return sorted(filter(_HARMLESS.fullmatch, found))
    return []


def verb_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each verb, by its name."""
    return next(
        dict(action.choices)
        for action in parser._actions  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    )
