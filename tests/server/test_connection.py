"""Connections: what they answer, and when they are ended."""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import LIMIT, Connect, batch, line, numbered, play

from qmond.errors import RequestError
from qmond.namespaces import in_first_pid_namespace
from qmond.server.access import Rights
from qmond.server.feed import LiveStart
from qmond.server.hub import Hub
from qmond.systemd.messages import MessageId


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why clients were cut off, by the messages so far."""
    journals = [dict(getattr(record, "journal", ())) for record in caplog.records]
    cut = [found for found in journals if found.get("MESSAGE_ID") == MessageId.CLIENT_CUT_OFF]
    return [found["QMOND_REASON"] for found in cut]


@contextlib.contextmanager
def plain(path: Path) -> Iterator[socket.socket]:
    """Give a socket without any buffer of this process: what is not read stays in the kernel."""
    with socket.socket(socket.AF_UNIX) as found:
        found.setblocking(False)  # noqa: FBT003 - its own signature
        found.connect(str(path))
        yield found


async def read_some(found: socket.socket, most: int) -> bytes:
    """Read some bytes, and let the server send as many."""
    async with asyncio.timeout(30):
        data = await asyncio.get_running_loop().sock_recv(found, most)
    await asyncio.sleep(0.001)
    return data


async def read_lines(found: socket.socket, count: int | None = None) -> list[dict[str, Any]]:
    """Read so many lines, or all until the server closes."""
    data = b""
    async with asyncio.timeout(30):
        while count is None or data.count(b"\n") < count:
            more = await asyncio.get_running_loop().sock_recv(found, 65536)
            if not more:
                break
            data += more
    return [json.loads(row) for row in data.splitlines()]


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


def test_silence_and_half_a_request_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
        assert reasons(caplog) == ["Timeout", "Timeout"]

    play(tmp_path / "s", scenario)


def test_who_still_reads_an_answer_is_not_silent(tmp_path: Path) -> None:
    async def scenario(hub: Hub, _connect: Connect) -> None:
        with plain(tmp_path / "s") as peer:
            peer.send(b'{"op":"long"}\n')
            await read_lines(peer, 1)
            now, (connection,) = time.monotonic(), hub.audience
            for time_ in range(0, 1000, 20):
                await read_some(peer, 20_000)
                connection.check(now + time_)
                assert not connection._transport.is_closing(), time_
            rest = b""
            while not rest.endswith(b'x"}\n'):
                rest = await read_some(peer, 65536)
            connection.check(now + 1200)
            assert not connection._transport.is_closing(), "it may ask again now"
            connection.check(now + 1400)
            assert connection._transport.is_closing()

    play(tmp_path / "s", scenario)


def test_a_request_that_fails_inside_is_told_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer, other = await connect(), await connect()
        await peer.get()
        await other.get()
        failed = (await peer.ask('{"op":"fail"}'))["error"]
        assert failed["class"] == "Failed"
        assert "Traceback" not in failed["message"]
        assert await peer.reader.read() == b""
        assert "ok" in await other.ask('{"op":"status"}')
        assert reasons(caplog) == ["Failed"]
        assert "surrogates" in caplog.text, "with its trace"
        assert len(hub.audience) == 1

    play(tmp_path / "s", scenario)


def test_who_has_asked_before_it_is_cut_off_learns_the_reason(tmp_path: Path) -> None:
    """And not an error of its socket."""

    async def scenario(_hub: Hub, connect: Connect) -> None:
        await (await connect()).get()
        with plain(tmp_path / "s") as late:
            with contextlib.suppress(BlockingIOError):
                while True:
                    late.send(b'{"op":"status"}\n' * 1000)
            (row,) = await read_lines(late)
            assert row["error"]["class"] == "TooManyClients"

    play(tmp_path / "s", scenario, max_clients=1)


def test_a_client_that_never_reads_is_cut_off_at_a_lines_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
        assert reasons(caplog) == ["TooSlow"]
        assert rows[-2]["event"] == "DROPPED"
        assert [row["pid"] for row in rows[:-2]] == list(range(len(rows) - 2))
        assert rows[-2]["count"] == 2000 - (len(rows) - 2)

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_who_reads_slowly_and_steadily_is_not_cut_off(tmp_path: Path) -> None:
    """A kilobyte a second: what the kernel holds hides that for a while."""

    async def scenario(hub: Hub, _connect: Connect) -> None:
        with plain(tmp_path / "s") as peer:
            peer.send(b'{"op":"tail"}\n')
            await read_lines(peer, 2)
            for _ in range(5):
                hub.broadcast(batch(*(("READ", number, 900) for number in range(1000))))
            now, (connection,) = time.monotonic(), hub.audience
            for second in range(300):
                await read_some(peer, 1024)
                connection.check(now + second)
                assert not connection._transport.is_closing(), second
            assert connection.describe()["buffered"] > LIMIT // 2
            connection.check(now + 300 + 31)
            assert connection._transport.is_closing()

    play(tmp_path / "s", scenario, client_buffer=LIMIT)


# ---- half-closed ---------------------------------------------------------------------------------


def test_who_has_shut_down_its_side_gets_all_answers(tmp_path: Path) -> None:
    async def scenario(hub: Hub, _connect: Connect) -> None:
        with plain(tmp_path / "s") as peer:
            peer.send(b'{"id":1,"op":"status"}\n{"id":2,"op":"nosuch"}\n{"id":3,"op":"status"}')
            peer.shutdown(socket.SHUT_WR)
            _, first, second, third = await read_lines(peer)
            assert (first["id"], second["id"], third["id"]) == (1, 2, 3)
            assert third["ok"] == {"fine": True}, "its line had no newline"
        with plain(tmp_path / "s") as peer:
            peer.shutdown(socket.SHUT_WR)
            assert len(await read_lines(peer)) == 1, "who asks nothing gets the greeting"
        while hub.audience:
            await asyncio.sleep(0.01)

    play(tmp_path / "s", scenario)


def test_many_requests_before_the_end_are_all_answered(tmp_path: Path) -> None:
    """More than the server reads at once."""

    async def scenario(_hub: Hub, _connect: Connect) -> None:
        with plain(tmp_path / "s") as peer:
            requests = b"".join(b'{"id":%d,"op":"status"}\n' % n for n in range(1, 10_001))
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, requests))
            sending.add_done_callback(lambda _: peer.shutdown(socket.SHUT_WR))
            assert [row.get("id") for row in await read_lines(peer)] == [None, *range(1, 10_001)]

    play(tmp_path / "s", scenario)


@pytest.mark.parametrize("request_", ["status", "tail"])
def test_netcat_gets_its_answer(tmp_path: Path, request_: str) -> None:
    (tmp_path / "events.jsonl").write_bytes(numbered(1, 5).data)
    asked = {"op": request_, "args": {"last": 2, "follow": False} if request_ == "tail" else {}}

    async def scenario(_hub: Hub, _connect: Connect) -> None:
        command = ("nc", "-N", "-U", str(tmp_path / "s"))
        pipe = asyncio.subprocess.PIPE
        netcat = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        async with asyncio.timeout(30):
            out, _ = await netcat.communicate(json.dumps(asked).encode() + b"\n")
        rows = [json.loads(row) for row in out.splitlines()]
        if request_ == "status":
            assert rows[1:] == [{"ok": {"fine": True}}]
        else:
            assert [row.get("seq") for row in rows[1:]] == [None, 4, 5, None]
            assert rows[-1]["end"]["reason"] == "complete"

    play(tmp_path / "s", scenario)


def test_a_tail_goes_on_until_the_client_has_gone_entirely(tmp_path: Path) -> None:
    async def scenario(hub: Hub, _connect: Connect) -> None:
        with plain(tmp_path / "s") as peer:
            peer.send(b'{"op":"tail"}\n')
            peer.shutdown(socket.SHUT_WR)
            await read_lines(peer, 2)
            (connection,) = hub.audience
            for number in range(3):
                connection.check(time.monotonic() + 1000 * number)
                hub.broadcast(line("READ", number))
                assert [row["pid"] for row in await read_lines(peer, 1)] == [number]
        await asyncio.sleep(0.05)
        assert len(hub.audience) == 1, "no line came that could not be sent"
        hub.check()
        await asyncio.sleep(0.05)
        assert len(hub.audience) == 0

    play(tmp_path / "s", scenario)


def test_who_has_gone_while_its_requests_wait_keeps_no_place(tmp_path: Path) -> None:
    """The server does not read on, and so does not come to the end."""

    async def scenario(hub: Hub, _connect: Connect) -> None:
        with plain(tmp_path / "s") as peer:
            while not hub.audience:
                await asyncio.sleep(0.01)
            hub.shares[next(iter(hub.audience)).peer.uid].spend(1000)
            for _ in range(100):
                with contextlib.suppress(BlockingIOError):
                    peer.send(b'{"op":"status"}\n' * 1000)
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert len(hub.audience) == 1
        hub.check()
        await asyncio.sleep(0.05)
        assert len(hub.audience) == 0

    play(tmp_path / "s", scenario)


def test_rights_that_are_gone_are_gone_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
        assert reasons(caplog) == ["Forbidden", "Forbidden"]

    play(tmp_path / "s", scenario)


def test_a_tail_that_has_yet_to_begin_is_refused_when_rights_change(tmp_path: Path) -> None:
    """An `end` would be that of a tail which never began."""

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        peer.writer.write(b'{"id":7,"op":"tail","args":{"where":"fd >= 0"}}\n')
        while not any(connection.tail.feed for connection in hub.audience):
            await asyncio.sleep(0)
        setattr(hub.audience, "rights", lambda _: Rights(ask=True, content=False, control=False))  # noqa: B010
        hub.configure(hub.settings)
        refused = await peer.get()
        assert refused["id"] == 7
        assert "what you may see has changed" in refused["error"]["message"]
        assert "ok" in await peer.ask('{"op":"tail","args":{"where":"fd >= 0"}}')

    play(tmp_path / "s", scenario)


def test_a_tree_that_the_core_refuses_is_refused_for_its_reason(tmp_path: Path) -> None:
    async def refuse(_pid: int) -> LiveStart:
        raise RequestError("TooManyRequests", "try again")

    async def scenario(_hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        refused = await peer.ask('{"op":"tail","args":{"tree":1}}')
        assert refused == {"error": {"class": "TooManyRequests", "message": "try again"}}
        assert "ok" in await peer.ask('{"op":"tail"}')

    play(tmp_path / "s", scenario, tree=refuse)
