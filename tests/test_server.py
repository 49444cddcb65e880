"""The hub on a real socket, with clients of every kind."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from qmond.config import Socket
from qmond.encode import Encoder
from qmond.errors import InUseError
from qmond.events import NUMBER
from qmond.server import Hub, Lock

ALL = (1 << len(NUMBER)) - 1


def line(name: str, pid: int, size: int = 0) -> Encoder:
    return batch((name, pid, size))


def batch(*lines: tuple[str, int, int]) -> Encoder:
    encoder = Encoder()
    for name, pid, size in lines:
        text = json.dumps({"event": name, "pid": pid, "pad": "x" * size}).encode() + b"\n"
        encoder.append(text, NUMBER[name], pid, pid)
    return encoder


class Peer:
    """A client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            message: dict[str, Any] = json.loads(await self.reader.readline())
            return message

    async def ask(self, text: str) -> dict[str, Any]:
        self.writer.write(text.encode() + b"\n")
        return await self.get()


Connect = Callable[[], Coroutine[Any, Any, Peer]]
Scenario = Callable[[Hub, Connect], Coroutine[Any, Any, None]]


def play(path: Path, scenario: Scenario, **limits: int) -> None:
    """Run a scenario against a hub of its own."""

    async def run() -> None:
        hub = Hub(
            boot_id="boot",
            configured=ALL,
            limits=Socket(path=path, **limits),
            verbs={"status": lambda: {"fine": True}},
            dropped=lambda count: b'{"event":"DROPPED","count":%d}\n' % count,
        )
        await hub.listen(path)
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
        assert not path.exists()
        assert hub.clients == set()

    asyncio.run(run())


def test_greets_answers_and_streams(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer, other = await connect(), await connect()
        about = (await peer.get())["qmond"]
        assert (about["boot_id"], about["protocol"]) == ("boot", 1)
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
            '{"op":"reboot"}': "UnknownOp",
            '{"op":"status","args":{"x":1}}': "BadArgument",
            "x" * 70000: "LineTooLong",
        }.items():
            assert (await peer.ask(text))["error"]["class"] == kind
        peer.writer.write(b"\n\n")  # empty lines are nothing
        assert "ok" in await peer.ask('{"op":"status"}')

    play(tmp_path / "s", scenario)


def test_has_room_for_so_many_clients(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        for _ in range(2):
            assert "qmond" in await (await connect()).get()
        late = await connect()
        assert (await late.get())["error"]["class"] == "TooManyClients"
        assert await late.reader.read() == b""
        assert len(hub.clients) == 2

    play(tmp_path / "s", scenario, max_clients=2)


def test_a_slow_client_loses_whole_lines_and_is_told_how_many(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        slow, quick = await connect(), await connect()
        for peer in (slow, quick):
            await peer.get()
            await peer.ask('{"op":"tail"}')
        for number in range(2000):
            hub.broadcast(line("READ", number, size=1000))
            assert (await quick.get())["pid"] == number
        (lost,) = [client.dropped for client in hub.clients if client.dropped]
        assert 0 < lost < 2000
        messages = [await slow.get() for _ in range(2000 - lost + 1)]
        assert messages.pop() == {"event": "DROPPED", "count": lost}
        assert [message["pid"] for message in messages] == list(range(2000 - lost))
        hub.broadcast(line("READ", 7))
        assert (await slow.get())["pid"] == 7

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_a_client_that_only_asks_is_cut_off(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        with pytest.raises((ConnectionError, BrokenPipeError)):
            async with asyncio.timeout(20):
                while True:
                    peer.writer.write(b'{"op":"status"}\n' * 1000)
                    await peer.writer.drain()
        assert hub.clients == set()

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_one_lock_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    lock = Lock(path)
    with pytest.raises(InUseError, match="another qmond has this socket"):
        Lock(path)
    lock.close()
    assert not path.exists()
    Lock(path).close()
