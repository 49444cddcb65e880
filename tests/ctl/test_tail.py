"""`qmonctl tail` and a daemon that is restarted; what it prints the root tests show."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from peer import hello, peers

from qmond.ctl import main

TABLE = b'{"id":1,"ok":[{"name":"EXIT"},{"name":"READ"},{"name":"WRITE"}]}\n'


def config(*events: str) -> bytes:
    return json.dumps({"id": 2, "ok": {"events": events}}).encode() + b"\n"


def test_comes_back_with_the_events_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pauses = iter(range(10))  # when it does not end, that does
    monkeypatch.setattr("qmond.client.time", SimpleNamespace(sleep=lambda _: next(pauses)))
    path = tmp_path / "s"
    line = b'{"ts":1.000000,"event":"READ","pid":7,"seq":5}\n'
    first = hello(4), TABLE, config("EXIT", "READ", "WRITE"), b'{"id":3,"ok":{}}\n' + line + b"{"
    refusal = b'{"id":3,"error":{"class":"Forbidden","message":"over"}}\n'
    second = hello(5), TABLE, config("EXIT", "READ"), refusal
    with peers(path, first, second) as asked:
        words = ["tail", "--follow=retry", "--not-event", "exit", "--json"]
        assert main(["--socket", str(path), *words]) == 1
    tails = [request["args"] for request in asked if request["op"] == "tail"]
    assert [tail["events"] for tail in tails] == [["READ", "WRITE"], ["READ"]]
    assert [tail["from_seq"] for tail in tails] == [5, 6]
    out, said = capfdbinary.readouterr()
    assert out == line
    broken = f"qmonctl: {path}: the daemon hung up in the middle of a line; trying again\n"
    assert said.decode() == broken + "qmonctl: over\n"
