"""The front's answers to each operation: those of the core, as far as who asks may see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from qmond.events.schema import table
from qmond.front.core import Core
from qmond.server.access import Peer, Rights
from qmond.server.operations import Answer, Handler, Operation, forest, log_level
from qmond.server.protocol import ANSWER_MAX
from qmond.server.shares import Bucket

__all__ = ["operations"]

_AT_ONCE: Final = 64
"""Processes of a tree that are rendered before other tasks have a turn."""
_TREES: Final = 0.25
"""Of the loop's time, for making trees: an answer that clients share is of no user's share."""
_CHILDREN: Final = len(b',"children":[]')
"""Bytes by which a process of a tree is longer than the same one of a list."""


def operations(core: Core, connected: Callable[[], list[dict[str, Any]]]) -> dict[str, Operation]:
    """Return the operations by their names; `connected` describes the clients."""
    last_tree: list[tuple[Answer, asyncio.Task[Answer]]] = []  # at most one, and what it is made of
    share = Bucket(_TREES, _TREES)

    async def status(_args: Mapping[str, Any], peer: Peer, rights: Rights) -> Answer:
        answer, clients = await core.ask("status"), connected()
        shown = [client for client in clients if rights.control or client["uid"] == peer.uid]
        more = b',"clients":%b,"connected":%d}' % (orjson.dumps(shown), len(clients))
        return Answer(answer.text[:-1] + more)

    async def ps(*_: object) -> Answer:
        return await core.ask("ps")

    async def tree(*_: object) -> Answer:
        await asyncio.sleep(share.wait())
        processes = await core.ask("ps")
        if not last_tree or last_tree[0][0] is not processes:
            last_tree[:] = [(processes, asyncio.create_task(_as_tree(processes, share)))]
        return await asyncio.shield(last_tree[0][1])

    async def events(*_: object) -> Answer:
        return Answer(orjson.dumps(table()))

    async def config(_args: Mapping[str, Any], _peer: Peer, rights: Rights) -> Answer:
        return await core.ask("config", {"all": rights.control})

    async def level(args: Mapping[str, Any], *_: object) -> Answer:
        answer = await core.ask("log-level", args)
        log_level(args)
        return answer

    def forwarded(op: str) -> Handler:
        return lambda args, _peer, _rights: core.ask(op, args)

    return {
        "status": Operation(status),
        "ps": Operation(ps),
        "tree": Operation(tree),
        "events": Operation(events),
        "config": Operation(config),
        "log-level": Operation(level, ("level",), control=True),
        "rotate": Operation(forwarded("rotate"), control=True),
        "reload": Operation(forwarded("reload"), control=True),
    }


async def _as_tree(processes: Answer, share: Bucket) -> Answer:
    """Return a list of processes as a tree; other tasks have turns meanwhile."""
    began = time.thread_time()
    found = orjson.loads(processes.text)
    kept = _fitting(found, len(processes.text))
    parts: list[bytes] = []
    for at, root in enumerate(forest(found[:kept])):
        parts.append(orjson.dumps(root))
        if at % _AT_ONCE == 0:
            share.spend(time.thread_time() - began)
            await asyncio.sleep(0)
            began = time.thread_time()
    share.spend(time.thread_time() - began)
    cut = processes.truncated or kept < len(found)
    return Answer(b"[%b]" % b",".join(parts), truncated=cut)


def _fitting(processes: list[dict[str, Any]], size: int) -> int:
    """Return how many of the processes an answer has room for, whose list has this size."""
    kept, size = len(processes), size + len(processes) * _CHILDREN
    while size > ANSWER_MAX:
        kept -= 1
        size -= len(orjson.dumps(processes[kept])) + 1 + _CHILDREN
    return kept
