"""The front's answers to each operation: those of the core, as far as who asks may see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from qmond.events.schema import table
from qmond.front.core import Core
from qmond.server.access import Peer, Rights
from qmond.server.operations import Answer, Handler, Operation, forest, log_level
from qmond.server.protocol import ANSWER_MAX

__all__ = ["operations"]

_CHECKED: Final = 64
"""Processes after which others have a turn."""


def operations(core: Core, connected: Callable[[], list[dict[str, Any]]]) -> dict[str, Operation]:
    """Return what can be asked; `connected` describes the clients."""
    grown: list[tuple[Answer, asyncio.Task[Answer]]] = []

    async def status(_args: Mapping[str, Any], peer: Peer, rights: Rights) -> Answer:
        told, clients = await core.ask("status"), connected()
        shown = [client for client in clients if rights.control or client["uid"] == peer.uid]
        more = b',"clients":%b,"connected":%d}' % (orjson.dumps(shown), len(clients))
        return Answer(told.text[:-1] + more)

    async def ps(*_: object) -> Answer:
        return await core.ask("ps")

    async def tree(*_: object) -> Answer:
        told = await core.ask("ps")
        if not grown or grown[0][0] is not told:
            grown[:] = [(told, asyncio.create_task(_grown(told)))]
        return await asyncio.shield(grown[0][1])

    async def events(*_: object) -> Answer:
        return Answer(orjson.dumps(table()))

    async def config(_args: Mapping[str, Any], _peer: Peer, rights: Rights) -> Answer:
        return await core.ask("config", {"all": rights.control})

    async def level(args: Mapping[str, Any], *_: object) -> Answer:
        told = await core.ask("log-level", args)
        log_level(args)
        return told

    def plain(op: str) -> Handler:
        return lambda args, _peer, _rights: core.ask(op, args)

    return {
        "status": Operation(status),
        "ps": Operation(ps),
        "tree": Operation(tree),
        "events": Operation(events),
        "config": Operation(config),
        "log-level": Operation(level, ("level",), control=True),
        "rotate": Operation(plain("rotate"), control=True),
        "reload": Operation(plain("reload"), control=True),
    }


async def _grown(told: Answer) -> Answer:
    """Return a list of processes as a tree; other clients have a turn meanwhile."""
    parts: list[bytes] = []
    size = 2
    for at, root in enumerate(forest(orjson.loads(told.text))):
        text = orjson.dumps(root)
        size += len(text) + 1
        if size > ANSWER_MAX:
            return Answer(b"[%b]" % b",".join(parts), truncated=True)
        parts.append(text)
        if at % _CHECKED == 0:
            await asyncio.sleep(0)
    return Answer(b"[%b]" % b",".join(parts), truncated=told.truncated)
