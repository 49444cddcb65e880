"""Requests in turns: many of them, of any kind, cost the others little."""

import asyncio
import time
from pathlib import Path
from typing import Any

from serving import Connect, play
from storms import storm

from qmond.server.access import Rights
from qmond.server.hub import Hub

FLOOD = b'{"op":"status"}\n' * 100_000
BOUND = 5
"""Seconds within which everybody has an answer who waits for each."""


def as_users(hub: Hub, *uids: int) -> None:
    """Play that the clients that connect now are these users'."""
    waiting = iter(uids)

    def rights(peer: Any) -> Rights:
        object.__setattr__(peer, "uid", next(waiting))
        return Rights(ask=True, content=False, control=False)

    setattr(hub.audience, "rights", rights)  # noqa: B010


def test_one_who_asks_without_end_leaves_the_others_their_turn(tmp_path: Path) -> None:
    async def scenario(_hub: Hub, connect: Connect) -> None:
        flooding, other = await connect(), await connect()
        await flooding.get()
        await other.get()
        flooding.writer.write(b'{"op":"status"}\n' * 100_000)
        flooded = asyncio.create_task(flooding.reader.read())
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for _ in range(5):
            await other.ask('{"op":"status"}')
            await asyncio.sleep(0.05)
        assert time.monotonic() - began < 20
        flooding.writer.transport.abort()
        await asyncio.gather(flooded, return_exceptions=True)

    play(tmp_path / "s", scenario)


def test_floods_of_others_delay_nobody(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        users = [*range(1001, 1007)] * 3
        as_users(hub, *users, 2000)
        flooding = [await connect() for _ in users]
        other = await connect()
        await other.get()
        for peer in flooding:
            peer.writer.write(FLOOD)
        flooded = [asyncio.create_task(peer.reader.read()) for peer in flooding]
        await asyncio.sleep(1)
        for _ in range(5):
            began = time.monotonic()
            assert "ok" in await other.ask('{"op":"status"}')
            assert time.monotonic() - began < BOUND
        for peer in flooding:
            peer.writer.transport.abort()
        await asyncio.gather(*flooded, return_exceptions=True)

    play(tmp_path / "s", scenario)


def test_what_would_have_to_wait_for_too_long_is_refused(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        as_users(hub, 1001, 1001, 1002)
        early, late, other = [await connect() for _ in range(3)]
        for peer in (early, late, other):
            await peer.get()
        hub.shares[1001].spend(0.5)  # a second's wait
        assert "ok" in await early.ask('{"op":"status"}')
        hub.shares[1001].spend(100)
        began = time.monotonic()
        answers = await asyncio.gather(*(p.ask('{"id":7,"op":"status"}') for p in (early, late)))
        assert time.monotonic() - began < BOUND
        for answer in answers:
            assert answer["id"] == 7
            assert answer["error"]["class"] == "TooManyRequests"
            assert "try again in" in answer["error"]["message"]
        assert "ok" in await other.ask('{"op":"status"}')
        hub.shares[1001].spend(-100)
        assert "ok" in await early.ask('{"op":"status"}'), "the connection goes on"

    play(tmp_path / "s", scenario)


def test_any_request_is_answered_and_costs_no_memory() -> None:
    """As `python tests/server/storms.py storm 1000000` does with a million of them."""
    assert asyncio.run(storm(20_000, time.time_ns())) < 4096
