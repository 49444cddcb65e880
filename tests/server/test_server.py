"""The hub on a real socket, with clients of every kind."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from storms import storm

from qmond.errors import InUseError
from qmond.events.table import NUMBER
from qmond.lines.encoder import Encoder
from qmond.log.files import Position
from qmond.server.access import Lock, Rights, bind_unix
from qmond.server.broadcast import Frame, Frames, Share
from qmond.server.choices import Batch
from qmond.server.feed import LiveStart
from qmond.server.hub import Hub
from qmond.server.operations import Answer, Operation
from qmond.server.settings import FrontSettings
from qmond.server.shares import Shares
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


def play(path: Path, scenario: Scenario, **settings: Any) -> None:
    """Run a scenario against a hub of its own, whose log is beside the socket."""
    log = path.with_name("events.jsonl")
    log.touch()

    async def status(*_: object) -> Answer:
        return Answer(b'{"fine":true}')

    async def run() -> None:
        async def live_start(*pids: int) -> LiveStart:
            end = Position.at(log.stat(), log.stat().st_size)
            return LiveStart(hub.seq, end, tuple(pid + 1 for pid in pids))

        source = Source(
            operations={
                "status": Operation(status),
                "reboot": Operation(status, ("when",), control=True),
            },
            about=lambda: {"boot_id": "boot", "newest": 100},
            dropped=lambda count: b'{"event":"DROPPED","count":%d}\n' % count,
            log=Log(str(path.parent)),
            follow=live_start,
            tree=live_start,
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


def test_a_readers_lines_go_on_after_any_number_of_bytes(tmp_path: Path) -> None:
    """Neither side may take half of the buffer, to the byte, for the other's turn."""

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        assert await peer.ask('{"op":"tail","args":{"where":"pid == 1"}}') == {"ok": {}}
        (client,) = hub.audience
        assert client.tail.feed
        sent = 0
        while (room := LIMIT // 2 - client.describe()["buffered"]) > 0:
            client.tail.feed.data_received(b"x" * (min(room, LIMIT // 8) - 1) + b"\n")
            sent += min(room, LIMIT // 8)
        assert client.describe()["buffered"] == LIMIT // 2
        await peer.reader.readexactly(sent)
        hub.broadcast(line("READ", 1))
        assert (await peer.get())["event"] == "READ"

    play(tmp_path / "s", scenario, client_buffer=LIMIT)


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


def test_has_room_for_so_many_clients(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        for _ in range(2):
            assert "qmond" in await (await connect()).get()
        late = await connect()
        assert (await late.get())["error"]["class"] == "TooManyClients"
        assert await late.reader.read() == b""
        assert len(hub.audience) == 2

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
        (lost,) = [client.tail.dropped for client in hub.audience if client.tail.dropped]
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


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({"last": 3}, [28, 29, 30]),
        ({"last": 2, "where": "fd % 10 == 5"}, [15, 25]),
        ({"from_seq": 26}, [26, 27, 28, 29, 30]),
        ({"from_seq": 22, "pids": [0]}, [24, 27, 30]),
        ({"last": 0}, []),
    ],
)
def test_the_past_alone(tmp_path: Path, args: dict[str, Any], found: list[int]) -> None:
    async def scenario(_hub: Hub, connect: Connect) -> None:
        (tmp_path / "events-20261122T080000.000000Z.jsonl").write_bytes(numbered(1, 20).data)
        (tmp_path / "events.jsonl").write_bytes(numbered(21, 30).data)
        peer = await connect()
        await peer.get()
        request = {"op": "tail", "args": args | {"follow": False}}
        assert await peer.ask(json.dumps(request)) == {"ok": {}}
        assert await seqs(peer, len(found)) == found
        assert await peer.get() == {"end": {"reason": "complete"}}
        assert await peer.ask('{"op":"status"}') == {"ok": {"fine": True}}

    play(tmp_path / "s", scenario)


def test_what_a_reader_has_no_room_for_it_reads_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        assert await peer.ask('{"op":"tail","args":{"where":"fd >= 0"}}') == {"ok": {}}
        for first in range(1, 20001, 1000):  # far more than the buffers hold, and nobody reads
            batch = numbered(first, first + 999)
            with log.open("ab") as file:
                file.write(batch.data)
            hub.broadcast(batch)
        assert await seqs(peer, 20000) == list(range(1, 20001))

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_who_may_not_see_content_sees_none(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        setattr(hub.audience, "rights", lambda _: Rights(ask=True, content=False, control=False))  # noqa: B010
        (tmp_path / "events.jsonl").write_bytes(numbered(1, 5).data)
        for args in ({}, {"pids": [0, 1, 2]}, {"last": 5}, {"where": "fd > 0", "from_seq": 1}):
            peer = await connect()
            await peer.get()
            assert await peer.ask(json.dumps({"op": "tail", "args": args})) == {"ok": {}}
            hub.broadcast(numbered(6, 6))
            row = await peer.get()
            assert row["redacted"] is True
            assert "buf" not in row
        peer = await connect()
        await peer.get()
        where = '{"op":"tail","args":{"where":"buf.startsWith(\\"s\\")"}}'
        assert (await peer.ask(where))["error"]["class"] == "Forbidden"
        assert (await peer.ask('{"op":"reboot"}'))["error"]["class"] == "Forbidden"

    play(tmp_path / "s", scenario)


def test_who_may_not_ask_is_told_so(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        setattr(hub.audience, "rights", lambda _: Rights(ask=False, content=False, control=False))  # noqa: B010
        peer = await connect()
        assert (await peer.get())["error"]["class"] == "Forbidden"
        assert await peer.reader.read() == b""
        assert len(hub.audience) == 0

    play(tmp_path / "s", scenario)


def test_silence_and_half_a_request_end(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        silent, half, tailing = await connect(), await connect(), await connect()
        for peer in (silent, half, tailing):
            await peer.get()
        half.writer.write(b'{"op":')
        await tailing.ask('{"op":"tail"}')
        now = time.monotonic()
        for client in hub.audience:
            client.check(now + 11)
        assert (await half.get())["error"]["class"] == "Timeout"
        for client in hub.audience:
            client.check(now + 301)
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
        (client,) = hub.audience
        hub.check()
        client.check(time.monotonic() + 29)
        assert tuple(hub.audience) == (client,)
        client.check(time.monotonic() + 31)
        rows = [json.loads(row) for row in (await peer.reader.read()).splitlines()]
        assert rows[-1]["error"]["class"] == "TooSlow"
        assert rows[-2]["event"] == "DROPPED"
        assert [row["pid"] for row in rows[:-2]] == list(range(len(rows) - 2))
        assert rows[-2]["count"] == 2000 - (len(rows) - 2)

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


def test_who_reads_slowly_and_steadily_is_not_cut_off(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        await peer.ask('{"op":"tail"}')
        hub.broadcast(batch(*(("READ", number, 900) for number in range(1000))))
        for _ in range(4):
            hub.broadcast(batch(*(("READ", number, 900) for number in range(1000))))
        now, (client,) = time.monotonic(), hub.audience
        for second in range(120):
            await peer.reader.readexactly(10_000)
            await asyncio.sleep(0)
            client.check(now + second)
        assert client.describe()["buffered"] > LIMIT // 2
        assert not client._transport.is_closing()

    play(tmp_path / "s", scenario, client_buffer=LIMIT)


def test_root_gets_in_whoever_else_is_there(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        real = hub.audience.rights
        uids = iter([*[1000] * 6, *[1001] * 6, *[1002] * 6, *[1003] * 6, 0, 0])

        def rights(peer: Any) -> Rights:
            object.__setattr__(peer, "uid", next(uids))
            real(peer)
            return Rights(ask=True, content=False, control=peer.uid == 0)

        setattr(hub.audience, "rights", rights)  # noqa: B010
        greeted = [("qmond" in await (await connect()).get()) for _ in range(26)]
        assert greeted[:6] == [True] * 4 + [False] * 2, "a quarter for one user"
        assert sum(greeted[:24]) == 14, "and places that are root's"
        assert greeted[24:] == [True, True]

    play(tmp_path / "s", scenario, max_clients=16)


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


def test_readers_share_a_fork_server_that_ends_when_it_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmond.server.forkserver._IDLE", 0.2)

    def children(pid: int) -> list[int]:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [*map(int, words)]

    async def scenario(hub: Hub, connect: Connect) -> None:
        for _ in range(2):
            peers = [await connect() for _ in range(3)]
            for peer in peers:
                await peer.get()
                assert await peer.ask('{"op":"tail","args":{"where":"pid == 1"}}') == {"ok": {}}
            process = hub.readers.fork_server._process
            assert process is not None
            assert len(children(process.pid)) == 3
            hub.check()
            await asyncio.sleep(0.3)
            hub.check()
            assert process.poll() is None, "it is needed"
            for peer in peers:
                peer.writer.close()
            async with asyncio.timeout(10):
                while hub.readers:
                    await asyncio.sleep(0.01)
            hub.check()
            await asyncio.sleep(0.3)
            hub.check()
            assert process.poll() is not None

    play(tmp_path / "s", scenario)


def test_readers_end_with_their_fork_server(tmp_path: Path) -> None:
    """A client whose reader was lost with it is told so, and another request has another one."""

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        request = '{"op":"tail","args":{"where":"pid == 1"}}'
        assert await peer.ask(request) == {"ok": {}}
        process = hub.readers.fork_server._process
        assert process is not None
        reader = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip()
        process.kill()
        assert (await peer.get())["end"]["reason"] == "the reader failed (None)"
        async with asyncio.timeout(10):
            while Path(f"/proc/{reader}").exists():
                await asyncio.sleep(0.01)
        assert await peer.ask(request) == {"ok": {}}

    play(tmp_path / "s", scenario)


def test_an_expression_that_never_ends_ends_its_reader(tmp_path: Path) -> None:
    many = "[" + ",".join(["1"] * 120) + "]"
    endless = f"{many}.all(a,{many}.all(b,{many}.all(c,{many}.all(d,{many}.all(e,a+b+c+d+e>0)))))"

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        request = {"id": 3, "op": "tail", "args": {"where": endless}}
        assert await peer.ask(json.dumps(request)) == {"id": 3, "ok": {}}
        hub.broadcast(numbered(1, 1))
        reason = (await peer.get())["end"]["reason"]
        assert reason == "`where` took more than 1 s of CPU time for one line"
        assert "ok" in await peer.ask('{"op":"status"}')

    play(tmp_path / "s", scenario)


def test_lines_without_numbers_that_a_reader_does_not_get_are_counted(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        assert await peer.ask('{"op":"tail","args":{"where":"fd >= 0"}}') == {"ok": {}}
        for first in range(1, 40001, 1000):
            hub.broadcast(numbered(first, first + 999))
        got = dropped = 0
        while got + dropped < 40000:
            row = await peer.get()
            assert row["event"] != "GAP"
            got, dropped = (
                (got, dropped + row["count"]) if row["event"] == "DROPPED" else (got + 1, dropped)
            )
        assert dropped > 0

    play(tmp_path / "s", scenario, client_buffer=65536, numbered=False)


def test_shares_are_each_users_own() -> None:
    now = 0.0
    shares = Shares(0.5, 1.0, lambda: now)
    shares[1].spend(2.0)
    assert shares[1].wait() == 2.0
    assert shares[2].wait() == 0.0
    now = 3.0
    assert shares[1].wait() == 0.0


def test_one_lock_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    lock = Lock(path)
    with pytest.raises(InUseError, match="another qmond has this socket"):
        Lock(path)
    lock.close()
    assert not path.exists()
    Lock(path).close()


def test_any_request_is_answered_and_costs_no_memory() -> None:
    """As tests/hostile.py does with a million of them."""
    assert asyncio.run(storm(20_000, time.time_ns())) < 4096
