"""What can be asked of the daemon beside events: each verb, what it takes, and who may use it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from qmond.config import Config
from qmond.errors import RequestError

__all__ = ["Verb", "config_of", "forest", "log_level"]

_LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Verb:
    """A request that is answered at once; `control` where it is for root alone."""

    answer: Callable[[Mapping[str, Any]], Any]
    arguments: tuple[str, ...] = ()
    control: bool = False


def config_of(config: Config) -> dict[str, Any]:
    """Return the answer to `config`: what is in force, as etc/qmon.yaml has it; sizes in bytes."""
    found: dict[str, Any] = _plain(asdict(config) | {"limits": dict(config.limits)})
    return found


def _plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def log_level(args: Mapping[str, Any]) -> str:
    """Say how much the daemon says of itself, after changing that where it is asked to."""
    logger = logging.getLogger("qmond")
    if (level := args.get("level")) is not None:
        if level not in _LEVELS:
            raise RequestError("BadArgument", f"level: one of {', '.join(_LEVELS)} is needed")
        logger.setLevel(level.upper())
    return logging.getLevelName(logger.getEffectiveLevel()).lower()


def forest(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answer to `tree`: processes with their `children`, roots on top."""
    nodes = {process["pid"]: process | {"children": []} for process in processes}
    roots: list[dict[str, Any]] = []
    for node in nodes.values():
        parent = nodes.get(node["ppid"])
        (parent["children"] if parent else roots).append(node)
    return roots
