"""What the front answers to each verb: what the core says, as far as who asks may see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from qmond.events.schema import table
from qmond.front.core import Core
from qmond.server.protocol import ANSWER_MAX
from qmond.server.verbs import Answer, Asked, Verb, forest, log_level

__all__ = ["verbs"]

_CHECKED: Final = 64
"""Processes after which others have a turn."""


def verbs(core: Core, connected: Callable[[], list[dict[str, Any]]]) -> dict[str, Verb]:
    """Return what can be asked; `connected` describes the clients."""
    grown: list[tuple[Answer, asyncio.Task[Answer]]] = []

    async def status(asked: Asked) -> Answer:
        told, clients = await core.ask("status"), connected()
        shown = [
            client for client in clients if asked.rights.control or client["uid"] == asked.peer.uid
        ]
        more = b',"clients":%b,"connected":%d}' % (orjson.dumps(shown), len(clients))
        return Answer(told.text[:-1] + more)

    async def ps(_asked: Asked) -> Answer:
        return await core.ask("ps")

    async def tree(_asked: Asked) -> Answer:
        told = await core.ask("ps")
        if not grown or grown[0][0] is not told:
            grown[:] = [(told, asyncio.create_task(_grown(told)))]
        return await asyncio.shield(grown[0][1])

    async def events(_asked: Asked) -> Answer:
        return Answer(orjson.dumps(table()))

    async def config(asked: Asked) -> Answer:
        return await core.ask("config", {"all": asked.rights.control})

    async def level(asked: Asked) -> Answer:
        told = await core.ask("log-level", asked.args)
        log_level(asked.args)
        return told

    def plain(op: str) -> Callable[[Asked], Awaitable[Answer]]:
        return lambda asked: core.ask(op, asked.args)

    return {
        "status": Verb(status),
        "ps": Verb(ps),
        "tree": Verb(tree),
        "events": Verb(events),
        "config": Verb(config),
        "log-level": Verb(level, ("level",), control=True),
        "rotate": Verb(plain("rotate"), control=True),
        "reload": Verb(plain("reload"), control=True),
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
