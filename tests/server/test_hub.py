"""The lines that clients get: all that they may see, as far as they read."""

import asyncio
import json
from pathlib import Path

from serving import Connect, batch, line, numbered, play, seqs

from qmond.server.access import Rights
from qmond.server.hub import Hub


def test_a_slow_client_loses_whole_lines_and_is_told_how_many(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        slow, quick = await connect(), await connect()
        for peer in (slow, quick):
            await peer.get()
            await peer.ask('{"op":"tail"}')
        for number in range(2000):
            hub.broadcast(line("READ", number, size=1000))
            assert (await quick.get())["pid"] == number
        (lost,) = [
            connection.tail.dropped for connection in hub.audience if connection.tail.dropped
        ]
        assert 0 < lost < 2000
        messages = [await slow.get() for _ in range(2000 - lost + 1)]
        assert messages.pop() == {"event": "DROPPED", "count": lost}
        assert [message["pid"] for message in messages] == list(range(2000 - lost))
        hub.broadcast(line("READ", 7))
        assert (await slow.get())["pid"] == 7
        assert hub.audience.dropped == lost
        slow.writer.close()
        while len(hub.audience) == 2:
            await asyncio.sleep(0.01)
        assert hub.audience.dropped == lost, "that it has gone changes nothing"

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_a_batch_larger_than_the_buffer_comes_as_far_as_it_fits(tmp_path: Path) -> None:
    """One that is never taken whole would leave its client without any line for ever."""

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        await peer.ask('{"op":"tail"}')
        hub.broadcast(batch(*(("READ", number, 1000) for number in range(800))))
        pids: list[int] = []
        dropped = 0
        while len(pids) + dropped < 800:
            row = await peer.get()
            if row["event"] == "DROPPED":
                dropped += row["count"]
            else:
                pids.append(row["pid"])
        assert pids[:50] == list(range(50))
        assert dropped == 800 - len(pids)
        hub.broadcast(line("READ", 7))
        assert (await peer.get())["pid"] == 7

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_batches_larger_than_the_buffer_do_not_starve_who_reads_fast(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        await peer.ask('{"op":"tail"}')
        got = [0] * 30
        dropped = 0

        async def read() -> None:
            nonlocal dropped
            while sum(got) + dropped < 30 * 800:
                row = await peer.get()
                if row["event"] == "DROPPED":
                    dropped += row["count"]
                else:
                    got[row["pid"]] += 1

        reading = asyncio.create_task(read())
        for number in range(30):
            hub.broadcast(batch(*(("READ", number, 1000) for _ in range(800))))
            await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            await reading
        assert sum(count > 0 for count in got) > 20, got
        assert hub.audience.dropped == dropped > 0

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_who_may_not_see_content_sees_none(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        setattr(hub.audience, "rights", lambda _: Rights(ask=True, content=False, control=False))  # noqa: B010
        (tmp_path / "events.jsonl").write_bytes(numbered(1, 5).data)
        for args in ({}, {"pids": [1, 2]}, {"last": 5}, {"where": "fd > 0", "from_seq": 1}):
            peer = await connect()
            await peer.get()
            assert await peer.ask(json.dumps({"op": "tail", "args": args})) == {"ok": {}}
            hub.broadcast(numbered(6, 7))
            row = await peer.get()
            assert row["redacted"] is True
            assert "buf" not in row
        peer = await connect()
        await peer.get()
        where = '{"op":"tail","args":{"where":"buf.startsWith(\\"s\\")"}}'
        assert (await peer.ask(where))["error"]["class"] == "Forbidden"
        assert (await peer.ask('{"op":"reboot"}'))["error"]["class"] == "Forbidden"

    play(tmp_path / "s", scenario)


def test_the_past_is_joined_to_what_comes(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"

    async def scenario(hub: Hub, connect: Connect) -> None:
        log.write_bytes(numbered(1, 90).data)
        peer = await connect()
        await peer.get()
        peer.writer.write(b'{"id":5,"op":"tail","args":{"from_seq":7}}\n')
        first = 91
        while not (tail := next(iter(hub.audience)).tail).feed or not tail.sent:
            batch = numbered(first, first + 9)
            first += 10
            with log.open("ab") as file:
                file.write(batch.data)
            hub.broadcast(batch)
            await asyncio.sleep(0.001)
        assert await peer.get() == {"id": 5, "ok": {}}
        assert await seqs(peer, first - 7) == list(range(7, first))
        assert (await peer.ask('{"op":"tail"}'))["error"]["class"] == "Busy"
        answer = await peer.ask('{"id":6,"op":"stop"}')
        assert answer == {"id": 6, "ok": {"sent": first - 7, "dropped": 0}}
        hub.broadcast(numbered(first, first))
        assert await peer.ask('{"op":"tail"}') == {"ok": {}}, "and it may tail again"

    play(tmp_path / "s", scenario)
