"""Readers: the log's lines, and expressions that take too long."""

import json
from pathlib import Path
from typing import Any

import pytest
from serving import Connect, numbered, play, seqs

from qmond.server.hub import Hub


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
