"""A hub of its own for a test, on a real socket, and lines for its clients."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from qmond.events.table import NUMBER
from qmond.lines.encoder import Encoder
from qmond.log.files import Position
from qmond.server.access import bind_unix
from qmond.server.broadcast import Frame, Frames, Share
from qmond.server.choices import Batch
from qmond.server.feed import LiveStart
from qmond.server.hub import Hub
from qmond.server.operations import Answer, Operation
from qmond.server.settings import FrontSettings
from qmond.server.source import Log, Source

ALL = (1 << len(NUMBER)) - 1
LIMIT = 4 << 20


def line(name: str, pid: int, size: int = 0) -> Frame:
    return batch((name, pid, size))


def batch(*lines: tuple[str, int, int]) -> Frame:
    encoder = Encoder()
    for name, pid, size in lines:
        text = json.dumps({"event": name, "pid": pid, "pad": "x" * size}).encode() + b"\n"
        encoder.append(text, NUMBER[name], pid, pid)
    return framed(encoder)


def framed(encoder: Encoder) -> Frame:
    """Return a batch as it comes out of the memory that core and front share."""
    share = Share()
    try:
        share.put(encoder, Position(0, 0, 0), Position(0, 0, 0))
        frame = Frames(share.fd).take()
    finally:
        share.close()
    assert frame is not None
    return frame


class Peer:
    """A client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            message: dict[str, Any] = json.loads(await self.reader.readline())
            return message

    async def ask(self, text: str) -> dict[str, Any]:
        self.writer.write(text.encode() + b"\n")
        return await self.get()


class Counting(Hub):
    """A hub that knows the number of the line that comes next, as the front does."""

    seq = 0

    def broadcast(self, batch: Batch) -> None:
        super().broadcast(batch)
        self.seq = batch.seq


Connect = Callable[[], Coroutine[Any, Any, Peer]]
Scenario = Callable[[Hub, Connect], Coroutine[Any, Any, None]]


def play(
    path: Path,
    scenario: Scenario,
    operations: Mapping[str, Operation] | None = None,
    tree: Callable[[int], Awaitable[LiveStart]] | None = None,
    **settings: Any,
) -> None:
    """Run a scenario against a hub of its own, whose log is beside the socket."""
    log = path.with_name("events.jsonl")
    log.touch()

    async def status(*_: object) -> Answer:
        return Answer(b'{"fine":true}')

    async def fail(*_: object) -> Answer:
        raise TypeError("surrogates not allowed")

    async def long(*_: object) -> Answer:
        return Answer(b'"%b"' % (b"x" * LIMIT))

    async def run() -> None:
        async def live_start(*pids: int) -> LiveStart:
            end = Position.at(log.stat(), log.stat().st_size)
            return LiveStart(hub.seq, end, tuple(pid + 1 for pid in pids))

        source = Source(
            operations={
                "status": Operation(status),
                "long": Operation(long),
                "fail": Operation(fail),
                "reboot": Operation(status, ("when",), control=True),
                **(operations or {}),
            },
            about=lambda: {"boot_id": "boot", "newest": 100},
            dropped=lambda count: b'{"event":"DROPPED","count":%d}\n' % count,
            log=Log(str(path.parent)),
            follow=live_start,
            tree=tree or live_start,
        )
        hub = Counting(FrontSettings(configured=ALL, **settings), source)
        await hub.listen(bind_unix(path, None))
        peers: list[Peer] = []

        async def connect() -> Peer:
            peers.append(Peer(*await asyncio.open_unix_connection(path)))
            return peers[-1]

        try:
            await scenario(hub, connect)
        finally:
            for peer in peers:
                peer.writer.close()
            await hub.close()
        assert len(hub.audience) == 0

    asyncio.run(run())


def numbered(first: int, last: int) -> Frame:
    """Return a batch of lines with these numbers."""
    encoder = Encoder(seq=first)
    for number in range(first, last + 1):
        row = {"event": "READ", "pid": number % 3, "fd": number, "buf": "secret", "seq": number}
        text = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        encoder.append(text, NUMBER["READ"], number % 3, number % 3)
    return framed(encoder)


async def seqs(peer: Peer, count: int) -> list[int]:
    return [(await peer.get())["seq"] for _ in range(count)]
