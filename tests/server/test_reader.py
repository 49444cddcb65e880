"""Readers: the log's lines, and expressions that take too long."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from serving import Connect, framed, numbered, play, seqs

from qmond.events.table import NUMBER
from qmond.lines.encoder import Encoder
from qmond.server.broadcast import Frame
from qmond.server.hub import Hub


def at(moment: float) -> str:
    """Return a time in seconds since 1970 as lines have it."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def timed(first: int, *moments: float) -> Frame:
    """Return a batch of lines with numbers from `first` on, at these times."""
    encoder = Encoder(seq=first)
    for number, moment in enumerate(moments, first):
        row = {"event": "READ", "pid": 1, "fd": number, "time": at(moment), "seq": number}
        text = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        encoder.append(text, NUMBER["READ"], 1, 1)
    return framed(encoder)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({"last": 3}, [28, 29, 30]),
        ({"last": 2, "where": "fd % 10 == 5"}, [15, 25]),
        ({"from_seq": 26}, [26, 27, 28, 29, 30]),
        ({"from_seq": 22, "pids": [1]}, [22, 25, 28]),
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


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ({"from_seq": 2}, [2, 3, 5]),
        ({"since": at(1011)}, [2, 3, 5]),
        ({"since": at(1011), "until": at(1010.5)}, None),
        ({"from_seq": 1, "until": at(1015)}, [1, 2, 3, 4, 5, 6, 7]),
        ({"from_seq": 7, "until": "9999-12-31T23:59:59-01:00", "follow": False}, [7]),
        ({"last": 2}, [3, 5]),
        ({"last": 2, "where": "fd < 5", "fields": ["seq"]}, [2, 3]),
        ({"last": 2, "tree": 1}, [3, 5]),
        ({"last": 9, "until": at(1009)}, []),
    ],
)
def test_until_a_time_that_is_past(
    tmp_path: Path, args: dict[str, Any], found: list[int] | None
) -> None:
    """Lines may be a little out of order; what comes later is not looked at."""

    async def scenario(_hub: Hub, connect: Connect) -> None:
        (tmp_path / "events-20261122T080000.000000Z.jsonl").write_bytes(
            timed(1, 1010, 1011, 1012).data
        )
        (tmp_path / "events.jsonl").write_bytes(timed(4, 1012.8, 1012.5, 1014, 1012).data)
        peer = await connect()
        await peer.get()
        request = {"op": "tail", "args": {"until": at(1012.5)} | args}
        answer = await peer.ask(json.dumps(request))
        if found is None:
            assert "until: this is before since" in answer["error"]["message"]
            return
        assert answer == {"ok": {}}
        assert await seqs(peer, len(found)) == found
        assert await peer.get() == {"end": {"reason": "complete"}}

    play(tmp_path / "s", scenario)


@pytest.mark.parametrize("late", [True, False])
def test_until_a_time_to_come(tmp_path: Path, late: bool) -> None:  # noqa: FBT001
    """It ends at a line that is later, or without one, soon after that time."""

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        began = time.time()
        end = began + (60 if late else 0.5)
        assert "ok" in await peer.ask(json.dumps({"op": "tail", "args": {"until": at(end)}}))
        hub.broadcast(timed(1, began, end, end + 0.1))
        assert await seqs(peer, 2) == [1, 2]
        if late:
            hub.broadcast(timed(4, end + 2, end))
        assert await peer.get() == {"end": {"reason": "complete"}}
        assert time.time() < (began + 10 if late else end + 10)
        assert late or time.time() > end
        assert await peer.ask('{"op":"status"}') == {"ok": {"fine": True}}

    play(tmp_path / "s", scenario)


def test_lines_without_a_time_have_no_end(tmp_path: Path) -> None:
    async def scenario(_hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        answer = await peer.ask('{"op":"tail","args":{"until":"5m","last":1}}')
        assert "lines have no number and no time" in answer["error"]["message"]

    play(tmp_path / "s", scenario, numbered=False)


def test_a_wrong_expression_is_told_by_its_place(tmp_path: Path) -> None:
    async def scenario(_hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        request = {"id": 1, "op": "tail", "args": {"where": "fd == 1 &&\n pdi == 2"}}
        message = "where: line 2, column 2: no line has a key pdi"
        error = {"class": "BadArgument", "message": message, "line": 2, "column": 2}
        assert await peer.ask(json.dumps(request)) == {"id": 1, "error": error}

    play(tmp_path / "s", scenario)


def test_an_expression_that_never_ends_ends_its_reader(tmp_path: Path) -> None:
    many = "[" + ",".join(["1"] * 120) + "]"
    endless = (
        f"{many}.all(a,{many}.all(b,{many}.all(c,{many}.all(d,{many}.all(e,fd+a+b+c+d+e>0)))))"
    )

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


def test_an_expression_that_is_no_test_ends_its_tail_with_the_reason(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        request = {"op": "tail", "args": {"where": "fd < 2 ? fd == 1 : fd + 1"}}
        assert await peer.ask(json.dumps(request)) == {"ok": {}}
        hub.broadcast(numbered(1, 4))
        assert (await peer.get())["seq"] == 1, "the lines before are sent"
        reason = (await peer.get())["end"]["reason"]
        assert reason == "`where` gives a number, not true or false: compare it, as in fd == 3"
        request["args"] = {"where": "1 + 1"}
        answer = await peer.ask(json.dumps(request))
        assert answer["error"]["message"] == "where: it gives a number, not true or false"
        assert "ok" in await peer.ask('{"op":"status"}')

    play(tmp_path / "s", scenario)
