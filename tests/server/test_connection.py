"""Connections: what they answer, and when they are ended."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from serving import LIMIT, Connect, batch, line, numbered, play

from qmond.namespaces import in_first_pid_namespace
from qmond.server.access import Rights
from qmond.server.hub import Hub


def test_greets_answers_and_streams(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer, other = await connect(), await connect()
        about = (await peer.get())["qmond"]
        assert (about["boot_id"], about["protocol"]) == ("boot", 1)
        assert about["pid"] == (os.getpid() if in_first_pid_namespace() else None)
        await other.get()
        assert await peer.ask('{"id":1,"op":"status"}') == {"id": 1, "ok": {"fine": True}}
        assert await peer.ask('{"op":"tail","args":{"events":["READ"]}}') == {"ok": {}}
        hub.broadcast(batch(("WRITE", 1, 0), ("READ", 2, 0)))
        assert (await peer.get())["event"] == "READ"
        assert (await peer.ask('{"id":2,"op":"tail"}'))["error"]["class"] == "Busy"
        assert await other.ask('{"op":"status"}') == {"ok": {"fine": True}}, "it gets no events"

    play(tmp_path / "s", scenario)


def test_refuses_and_goes_on(tmp_path: Path) -> None:
    async def scenario(_hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        for text, kind in {
            "nonsense": "BadJson",
            '{"op":"halt"}': "UnknownOp",
            '{"op":"stop","args":{"x":1}}': "BadArgument",
            '{"op":"tail","args":{"where":"fd =="}}': "BadArgument",
            '{"op":"status","args":{"x":1}}': "BadArgument",
            "x" * 70000: "LineTooLong",
        }.items():
            assert (await peer.ask(text))["error"]["class"] == kind
        peer.writer.write(b"\n\n")  # empty lines are nothing
        assert "ok" in await peer.ask('{"op":"status"}')

    play(tmp_path / "s", scenario)


def test_a_client_that_only_asks_is_cut_off(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()

        async def look_after() -> None:
            while True:
                hub.check()
                await asyncio.sleep(0.1)

        looking = asyncio.create_task(look_after())
        with pytest.raises((ConnectionError, BrokenPipeError)):
            async with asyncio.timeout(60):
                while True:
                    peer.writer.write(b'{"op":"status"}\n' * 1000)
                    await peer.writer.drain()
        looking.cancel()
        assert len(hub.audience) == 0

    play(tmp_path / "s", scenario, client_buffer=65536, client_timeout=1)


def test_silence_and_half_a_request_end(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        silent, half, tailing = await connect(), await connect(), await connect()
        for peer in (silent, half, tailing):
            await peer.get()
        half.writer.write(b'{"op":')
        await tailing.ask('{"op":"tail"}')
        now = time.monotonic()
        for connection in hub.audience:
            connection.check(now + 11)
        assert (await half.get())["error"]["class"] == "Timeout"
        for connection in hub.audience:
            connection.check(now + 301)
        assert (await silent.get())["error"]["class"] == "Timeout"
        hub.broadcast(line("READ", 1))
        assert (await tailing.get())["pid"] == 1

    play(tmp_path / "s", scenario)


def test_a_client_that_never_reads_is_cut_off_at_a_lines_end(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        await peer.ask('{"op":"tail"}')
        for number in range(2000):
            hub.broadcast(line("READ", number, size=1000))
        (connection,) = hub.audience
        hub.check()
        connection.check(time.monotonic() + 29)
        assert tuple(hub.audience) == (connection,)
        connection.check(time.monotonic() + 31)
        rows = [json.loads(row) for row in (await peer.reader.read()).splitlines()]
        assert rows[-1]["error"]["class"] == "TooSlow"
        assert rows[-2]["event"] == "DROPPED"
        assert [row["pid"] for row in rows[:-2]] == list(range(len(rows) - 2))
        assert rows[-2]["count"] == 2000 - (len(rows) - 2)

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_who_reads_slowly_and_steadily_is_not_cut_off(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        await peer.ask('{"op":"tail"}')
        hub.broadcast(batch(*(("READ", number, 900) for number in range(1000))))
        for _ in range(4):
            hub.broadcast(batch(*(("READ", number, 900) for number in range(1000))))
        now, (connection,) = time.monotonic(), hub.audience
        for second in range(120):
            await peer.reader.readexactly(10_000)
            await asyncio.sleep(0)
            connection.check(now + second)
        assert connection.describe()["buffered"] > LIMIT // 2
        assert not connection._transport.is_closing()

    play(tmp_path / "s", scenario, client_buffer=LIMIT)


def test_rights_that_are_gone_are_gone_at_once(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        plain, filtered = await connect(), await connect()
        for peer, args in ((plain, {}), (filtered, {"where": "fd >= 0"})):
            await peer.get()
            assert await peer.ask(json.dumps({"op": "tail", "args": args})) == {"ok": {}}
        hub.broadcast(numbered(1, 1))
        assert (await plain.get())["buf"] == "secret"
        assert (await filtered.get())["buf"] == "secret"
        setattr(hub.audience, "rights", lambda _: Rights(ask=True, content=False, control=False))  # noqa: B010
        hub.configure(hub.settings)
        hub.broadcast(numbered(2, 2))
        assert "buf" not in await plain.get()
        assert "what you may see has changed" in (await filtered.get())["end"]["reason"]
        setattr(hub.audience, "rights", lambda _: Rights(ask=False, content=False, control=False))  # noqa: B010
        hub.configure(hub.settings)
        for peer in (plain, filtered):
            assert (await peer.get())["error"]["class"] == "Forbidden"
            assert await peer.reader.read() == b""

    play(tmp_path / "s", scenario)
