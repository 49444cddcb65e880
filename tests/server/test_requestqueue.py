"""Requests in turns: many of them, of any kind, cost the others little."""

import asyncio
import time
from pathlib import Path

from serving import Connect, play
from storms import storm

from qmond.server.hub import Hub


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


def test_any_request_is_answered_and_costs_no_memory() -> None:
    """As `python tests/server/storms.py storm 1000000` does with a million of them."""
    assert asyncio.run(storm(20_000, time.time_ns())) < 4096
