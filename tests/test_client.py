"""The client against peers that are no good daemon."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qmond.client import AsyncClient, Client
from qmond.errors import ProtocolError, QmondError, RequestError
from qmond.server.protocol import KEYS

HELLO = b'{"qmond":{"version":"9","protocol":1,"boot_id":"b","capabilities":[]}}\n'


@contextmanager
def peer(path: Path, *answers: bytes) -> Iterator[None]:
    """Serve one connection: greet with the first, and give one of the others for each request."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with (
                contextlib.suppress(ConnectionError),
                connection,
                connection.makefile("rb") as requests,
            ):
                connection.sendall(answers[0])
                for answer in answers[1:]:
                    requests.readline()
                    if answer:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


def test_asks_and_tails(tmp_path: Path) -> None:
    answers = HELLO, b'{"id":1,"ok":{"up":1}}\n', b'{"id":2,"ok":{}}\n{"event":"END"}\n'
    with peer(tmp_path / "s", *answers), Client(tmp_path / "s") as client:
        assert client.about["version"] == "9"
        assert client.status() == {"up": 1}
        assert list(client.tail(events=["END"])) == [b'{"event":"END"}']


def test_hanging_up_ends_a_thread_that_waits(tmp_path: Path) -> None:
    with peer(tmp_path / "s", HELLO, b'{"id":1,"ok":{}}\n', b""):
        client = Client(tmp_path / "s")
        lines = client.tail()
        waiting = threading.Thread(target=list, args=(lines,))
        waiting.start()
        time.sleep(0.1)
        client.close()
        waiting.join(10)
        assert not waiting.is_alive()


def test_a_tail_ends_well_or_says_why(tmp_path: Path) -> None:
    lines = b'{"id":1,"ok":{}}\n{"pid":1}\n{"id":1,"end":{"reason":"%b"}}\n'
    for reason in (b"complete", b"the reader failed (1)"):
        path = tmp_path / reason.decode()
        with peer(path, HELLO, lines % reason), Client(path) as client:
            tail = client.tail(last=1, follow=False, events=None)
            assert next(tail) == b'{"pid":1}'
            if reason == b"complete":
                assert list(tail) == []
            else:
                with pytest.raises(ProtocolError, match="the reader failed"):
                    next(tail)
    assert not {"id", "end", "error"} & KEYS, "or an event could be taken for a message"


def test_the_same_for_asyncio(tmp_path: Path) -> None:
    answers = (
        HELLO,
        b'{"id":1,"ok":{"up":1}}\n',
        b'{"id":2,"ok":{}}\n{"ts":1}\n{"end":{"reason":"complete"}}\n',
    )

    async def ask() -> list[bytes]:
        async with AsyncClient(tmp_path / "s") as client:
            assert client.about["version"] == "9"
            assert await client.status() == {"up": 1}
            return [line async for line in client.tail(pids=[1])]

    with peer(tmp_path / "s", *answers):
        assert asyncio.run(ask()) == [b'{"ts":1}']
    with pytest.raises(QmondError, match="No such file"):
        asyncio.run(AsyncClient(tmp_path / "none").__aenter__())


def test_a_refusal_is_told_at_once(tmp_path: Path) -> None:
    refusal = b'{"id":1,"error":{"class":"BadArgument","message":"pids: no"}}\n'
    with peer(tmp_path / "s", HELLO, refusal), Client(tmp_path / "s") as client:
        with pytest.raises(RequestError, match="pids: no") as caught:
            client.tail(pids=[-1])
        assert caught.value.kind == "BadArgument"


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0\n", b"[]\n", b'{"qmond":{"protocol":2}}\n'])
def test_a_stranger_is_told_from_a_daemon(tmp_path: Path, greeting: bytes) -> None:
    with peer(tmp_path / "s", greeting), pytest.raises(ProtocolError):
        Client(tmp_path / "s")


def test_no_daemon_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QmondError, match="No such file") as caught:
        Client(tmp_path / "none")
    assert "is the daemon running?" in str(caught.value)
    monkeypatch.setenv("QMOND_SOCKET", str(tmp_path / "by-name"))
    with pytest.raises(QmondError, match="by-name"):
        Client()


def test_an_answer_may_have_megabytes_and_says_what_was_cut(tmp_path: Path) -> None:
    rows = b"[" + b",".join([b'{"pid":1,"argv":["%b"]}' % (b"x" * 1000)] * 3500) + b"]"
    assert len(rows) > 3 << 20
    answer = b'{"id":1,"ok":%b,"truncated":true}\n' % rows
    with (
        peer(tmp_path / "s", HELLO, answer, b'{"id":2,"ok":1}\n'),
        Client(tmp_path / "s") as client,
    ):
        assert len(client.ps()) == 3500
        assert client.truncated
        client.status()
        assert not client.truncated

    async def ask() -> int:
        async with AsyncClient(tmp_path / "t") as client:
            found = await client.ps()
            assert client.truncated
            return len(found)

    with peer(tmp_path / "t", HELLO, answer):
        assert asyncio.run(ask()) == 3500


def test_a_line_beyond_all_bounds_is_told_as_that(tmp_path: Path) -> None:
    endless = b'{"id":1,"ok":"' + b"x" * (9 << 20)

    async def ask() -> None:
        async with AsyncClient(tmp_path / "t") as client:
            await client.ps()

    with (
        peer(tmp_path / "s", HELLO, endless),
        Client(tmp_path / "s") as client,
        pytest.raises(ProtocolError, match="more than 8 MiB"),
    ):
        client.ps()
    with peer(tmp_path / "t", HELLO, endless), pytest.raises(ProtocolError, match="more than 8"):
        asyncio.run(ask())
