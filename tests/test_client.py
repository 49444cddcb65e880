"""The client against peers that are no good daemon, or were restarted."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Unpack

import pytest
import serving
from peer import HELLO, hello, peer, peers

from qmond.client import AsyncClient, Choice, Client, follow, follow_async
from qmond.errors import ProtocolError, QmondError, RequestError
from qmond.server.arguments import KEYS
from qmond.server.hub import Hub


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


def test_an_answer_that_takes_too_long_is_told_and_lines_may_take_any_time(tmp_path: Path) -> None:
    with (
        peer(tmp_path / "late", HELLO, b"", b""),
        Client(tmp_path / "late", timeout=0.2) as client,
        pytest.raises(ProtocolError, match=r"answer within 0\.2 s\n  is it overloaded"),
    ):
        client.status()
    with (
        peer(tmp_path / "s", HELLO, b'{"id":1,"ok":{}}\n', b'{"event":"END"}\n'),
        Client(tmp_path / "s", timeout=0.2) as client,
    ):
        lines = client.tail()
        ask_later = threading.Timer(0.6, client._socket.sendall, [b"{}\n"])  # the peer's cue
        ask_later.start()
        assert next(lines) == b'{"event":"END"}'
        ask_later.join()


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
    refusal = b'{"id":1,"error":{"class":"BadArgument","message":"pids: no","column":3}}\n'
    with peer(tmp_path / "s", HELLO, refusal), Client(tmp_path / "s") as client:
        with pytest.raises(RequestError, match="pids: no") as caught:
            client.tail(pids=[-1])
        assert (caught.value.kind, caught.value.column) == ("BadArgument", 3)


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


# ---- leaving a tail early ------------------------------------------------------------------------

BEGUN = b'{"id":1,"ok":{}}\n{"ts":1}\n{"ts":2}\n'
STOPPED = b'{"ts":3}\n{"id":2,"ok":{"sent":3,"dropped":0}}\n'
FINE = b'{"id":3,"ok":{"up":1}}\n'


def ops(asked: list[dict[str, Any]]) -> list[str]:
    return [request["op"] for request in asked]


@pytest.mark.parametrize(
    "stopped",
    [STOPPED, b'{"id":1,"end":{"reason":"complete"}}\n' + STOPPED[9:]],
    ids=["in between", "at its end"],
)
def test_a_tail_may_be_left(tmp_path: Path, stopped: bytes) -> None:
    answers = HELLO, BEGUN, stopped, FINE
    with peers(tmp_path / "s", answers) as asked, Client(str(tmp_path / "s")) as client:
        for row in client.tail():
            assert row == b'{"ts":1}'
            break
        assert ops(asked) == ["tail", "stop"]
        assert client.status() == {"up": 1}

    async def leave() -> None:
        async with AsyncClient(str(tmp_path / "t")) as client:
            async for row in client.tail():
                assert row == b'{"ts":1}'
                break
            assert await client.status() == {"up": 1}

    with peers(tmp_path / "t", answers) as asked:
        asyncio.run(leave())
    assert ops(asked) == ["tail", "stop", "status"]


def test_a_request_ends_a_tail_whose_iterator_says_so(tmp_path: Path) -> None:
    answers = HELLO, BEGUN, STOPPED, FINE
    with peers(tmp_path / "s", answers) as asked, Client(tmp_path / "s") as client:
        tail = client.tail()
        assert next(tail) == b'{"ts":1}'
        assert client.status() == {"up": 1}
        with pytest.raises(QmondError, match="a later request on this connection ended the tail"):
            next(tail)
    assert ops(asked) == ["tail", "stop", "status"]

    async def ask() -> None:
        async with AsyncClient(tmp_path / "t") as client:
            tail = client.tail()
            assert await anext(tail) == b'{"ts":1}'
            assert await client.status() == {"up": 1}
            with pytest.raises(QmondError, match="ended the tail"):
                await anext(tail)

    with peers(tmp_path / "t", answers) as asked:
        asyncio.run(ask())
    assert ops(asked) == ["tail", "stop", "status"]


@pytest.mark.parametrize("stopped", [b"", b'{"ts":3}\n' * 9], ids=["silent", "goes on"])
def test_a_daemon_that_does_not_stop_a_tail_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bytes
) -> None:
    monkeypatch.setattr("qmond.wire.STOP_MAX", 0.2)
    with peer(tmp_path / "s", HELLO, BEGUN, stopped, b""), Client(tmp_path / "s") as client:
        with contextlib.closing(client.tail()) as tail:
            next(tail)
            began = time.monotonic()
        assert time.monotonic() - began < 2
        with pytest.raises(ProtocolError, match="this connection is closed"):
            client.status()
        with pytest.raises(ProtocolError, match="this connection is closed"):
            client.tail()


def test_skipping_a_tail_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmond.wire.STOP_MAX", 0)

    async def ask() -> None:
        async with AsyncClient(tmp_path / "s") as client:
            async with contextlib.aclosing(client.tail()) as tail:
                await anext(tail)
            with pytest.raises(ProtocolError, match="goes on with a tail that was left"):
                await client.status()

    with peer(tmp_path / "s", HELLO, BEGUN, b'{"ts":3}\n' * 9, b""):
        asyncio.run(ask())


def test_an_answer_is_known_by_its_number(tmp_path: Path) -> None:
    with (
        peer(tmp_path / "s", HELLO, b'{"id":7,"ok":{}}\n'),
        Client(tmp_path / "s") as client,
        pytest.raises(ProtocolError, match="something else than the answer"),
    ):
        client.status()


def test_a_thread_is_told_that_another_one_waits(tmp_path: Path) -> None:
    with peer(tmp_path / "s", HELLO, b'{"id":1,"ok":{}}\n', b""):
        client = Client(tmp_path / "s")
        waiting = threading.Thread(target=list, args=(client.tail(),))
        waiting.start()
        time.sleep(0.1)
        with pytest.raises(QmondError, match="use a client for each thread"):
            client.status()
        assert waiting.is_alive()
        client.close()
        waiting.join(10)


def test_a_task_is_told_that_another_one_waits(tmp_path: Path) -> None:
    async def ask() -> None:
        async with AsyncClient(tmp_path / "s") as client:
            waiting = asyncio.create_task(client.status())
            await asyncio.sleep(0.1)
            with pytest.raises(QmondError, match="use a client for each task"):
                await client.ps()
            with pytest.raises(QmondError, match="use a client for each task"):
                await anext(client.tail())
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    with peer(tmp_path / "s", HELLO, b"", b""):
        asyncio.run(ask())


def test_an_interrupt_in_the_middle_of_a_line_closes_the_connection(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with (
            peer(tmp_path / "s", HELLO, b'{"id":1,"ok":{}}\n{"ts', b""),
            Client(tmp_path / "s") as client,
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                list(client.tail())
            with pytest.raises(ProtocolError, match="this connection is closed"):
                client.status()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_task_may_be_cancelled_in_the_middle_of_a_line(tmp_path: Path) -> None:
    async def ask() -> None:
        async with AsyncClient(tmp_path / "s") as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    async for row in client.tail():
                        assert row == b'{"ts":1}'
            assert await client.status() == {"up": 1}

    answers = HELLO, BEGUN[:-3], BEGUN[-3:] + STOPPED, FINE
    with peers(tmp_path / "s", answers) as asked:
        asyncio.run(ask())
    assert ops(asked) == ["tail", "stop", "status"]


def test_a_request_that_was_cancelled_is_answered_to_nobody(tmp_path: Path) -> None:
    async def ask() -> None:
        async with AsyncClient(tmp_path / "s") as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.ps(), 0.2)
            assert await client.request("tree") == 2
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(client.tail()), 0.2)
            assert await client.request("tree") == 5

    first = b'{"id":1,"ok":1}\n{"id":2,"ok":2}\n'
    second = b'{"id":3,"ok":{}}\n{"ts":1}\n{"id":4,"ok":{}}\n{"id":5,"ok":5}\n'
    with peers(tmp_path / "s", (HELLO, b"", first, b"", b"", second)) as asked:
        asyncio.run(ask())
    assert ops(asked) == ["ps", "tree", "tail", "stop", "tree"]


async def leave_tails(client: AsyncClient) -> None:
    for choice in (Choice(), Choice(where="pid == 7"), Choice(events=["READ"])):
        async for row in client.tail(**choice):
            assert row.startswith(b'{"event": "READ"')
            break
        assert await client.status() == {"fine": True}


def leave_tails_too(path: Path) -> None:
    with Client(path) as client:
        for choice in (Choice(), Choice(where="pid == 7"), Choice(events=["READ"])):
            for row in client.tail(**choice):
                assert row.startswith(b'{"event": "READ"')
                break
            assert client.status() == {"fine": True}


def test_a_real_tail_may_be_left_while_lines_come(tmp_path: Path) -> None:
    async def storm(hub: Hub) -> None:
        while True:
            for _ in range(50):
                hub.broadcast(serving.line("READ", 7, size=1000))
            await asyncio.sleep(0.01)

    async def scenario(hub: Hub, _connect: serving.Connect) -> None:
        storming = asyncio.create_task(storm(hub))
        async with asyncio.timeout(60), AsyncClient(tmp_path / "s") as client:
            await leave_tails(client)
            await asyncio.to_thread(leave_tails_too, tmp_path / "s")
            assert not any(connection.tail.is_on for connection in hub.audience)
        storming.cancel()

    serving.play(tmp_path / "s", scenario, client_buffer=65536)


# ---- across restarts -----------------------------------------------------------------------------

TAIL = b'{"id":1,"ok":{}}\n'
END = b'{"id":1,"end":{"reason":"complete"}}\n'
OVER = b'{"id":1,"error":{"class":"Forbidden","message":"over"}}\n'
"""Ends a client that follows."""
TRIES_MAX = 100


class Follower:
    """Follows the daemon at a socket until an error: what came, and why it tried again."""

    def __init__(self, path: Path, then: Callable[[], object] = lambda: None) -> None:
        self._path = path
        self._then = then
        self.got: list[bytes] = []
        self.told: list[str] = []
        self.changes: list[Choice] = []

    def tell(self, error: QmondError) -> None:
        self.told.append(str(error))
        assert len(self.told) < TRIES_MAX
        self._then()

    def run(self, **choice: Unpack[Choice]) -> None:
        def choose(client: Client) -> Choice:
            assert client.about
            return self.changes.pop(0)

        choosing = choose if self.changes else None
        for line in follow(self._path, choose=choosing, on_retry=self.tell, **choice):
            self.got.append(line)


class AsyncFollower(Follower):
    def run(self, **choice: Unpack[Choice]) -> None:
        asyncio.run(self.follow(**choice))

    async def follow(self, **choice: Unpack[Choice]) -> None:
        async def choose(client: AsyncClient) -> Choice:
            assert client.about
            return self.changes.pop(0)

        choosing = choose if self.changes else None
        async for line in follow_async(self._path, choose=choosing, on_retry=self.tell, **choice):
            self.got.append(line)


both = pytest.mark.parametrize("kind", [Follower, AsyncFollower], ids=["sync", "async"])


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmond.client._PAUSE", 0.01)


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"ts":1.000000,"event":"READ","seq":%d}\n' % seq for seq in numbers)


@both
def test_goes_on_where_it_was(tmp_path: Path, kind: type[Follower]) -> None:
    """It is cut in the middle of a line, then the daemon stops, then it is away."""
    with contextlib.ExitStack() as stack:

        def serve(*connections: tuple[bytes, bytes]) -> None:
            asked.append(stack.enter_context(peers(tmp_path / "s", *connections)))

        def come_back() -> None:
            if "No such file" in follower.told[-1]:
                serve((hello(9), TAIL + lines(9)), (hello(9), OVER))

        asked: list[list[dict[str, Any]]] = []
        cut = TAIL + lines(5, 6) + lines(7)[:20]
        serve((hello(4), cut), (hello(8), TAIL + lines(7, 8) + END))
        follower = kind(tmp_path / "s", come_back)
        with pytest.raises(RequestError, match="over"):
            follower.run(pids=iter([1]))
    requests = [request for requests in asked for request in requests]
    assert [request["op"] for request in requests] == ["tail"] * 4
    assert [request["args"]["from_seq"] for request in requests] == [5, 7, 9, 10]
    assert all(request["args"]["pids"] == [1] for request in requests)
    assert b"\n".join(follower.got) + b"\n" == lines(5, 6, 7, 8, 9)
    in_line, away = follower.told
    assert "hung up in the middle of a line" in in_line
    assert "No such file" in away


@both
def test_another_boot_is_followed_from_its_first_line(tmp_path: Path, kind: type[Follower]) -> None:
    follower = kind(tmp_path / "s")
    boots = (
        (hello(40, "a"), TAIL + lines(41)),
        (hello(2, "b"), TAIL + lines(1, 2, 3)),
        (hello(3, "b"), OVER),
    )
    with peers(tmp_path / "s", *boots) as asked, pytest.raises(RequestError, match="over"):
        follower.run(last=3, events=["READ"])
    assert [request["args"].get("from_seq") for request in asked] == [None, 1, 4]
    assert [request["args"].get("last") for request in asked] == [3, None, None]
    assert b"\n".join(follower.got) + b"\n" == lines(41, 1, 2, 3)


@both
def test_a_daemon_that_was_killed_may_be_behind(tmp_path: Path, kind: type[Follower]) -> None:
    follower = kind(tmp_path / "s")
    behind = hello(10), b"it is not asked"
    lives = (hello(9), TAIL + lines(10, 11)), behind, behind, (hello(11), OVER)
    with peers(tmp_path / "s", *lives) as asked, pytest.raises(RequestError, match="over"):
        follower.run()
    assert [request["args"]["from_seq"] for request in asked] == [10, 12]
    assert follower.told == ["the daemon is still writing the lines again that it had sent"] * 2


@both
def test_the_end_is_a_time(tmp_path: Path, kind: type[Follower]) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for over in ("2023-11-14T22:13:20Z", "5m"):
        follower = kind(tmp_path / "s")
        with peers(tmp_path / "s", (hello(4), TAIL + lines(5) + END)):
            follower.run(until=over)
        assert (follower.got, follower.told) == (lines(5).splitlines(), [])
    follower, stopped = kind(tmp_path / "s"), (hello(4), TAIL + END)
    with (
        peers(tmp_path / "s", stopped, (hello(4), OVER)) as asked,
        pytest.raises(RequestError, match="over"),
    ):
        follower.run(until=later)
    assert [request["args"]["until"] for request in asked] == [later, later]


def test_a_fault_has_its_column(tmp_path: Path) -> None:
    fault = b'{"id":1,"error":{"class":"BadArgument","message":"where: x","column":6}}\n'
    found = []
    for answer in (fault, OVER):
        with peer(tmp_path / "s", HELLO, answer), Client(tmp_path / "s") as client:
            try:
                client.tail(where="fd ==")
            except RequestError as error:
                found.append(error.column)
    assert found == [6, None]


@both
def test_what_to_ask_for_may_depend_on_the_daemon(tmp_path: Path, kind: type[Follower]) -> None:
    follower = kind(tmp_path / "s")
    follower.changes = [{"events": ["READ"]}, {"events": ["EXIT"]}]
    lives = (hello(4), TAIL), (hello(4), OVER)
    with peers(tmp_path / "s", *lives) as asked, pytest.raises(RequestError, match="over"):
        follower.run(tree=7)
    wanted = [(request["args"]["events"], request["args"]["tree"]) for request in asked]
    assert wanted == [(["READ"], 7), (["EXIT"], 7)]


@both
def test_what_fails_at_first_is_not_tried_again(tmp_path: Path, kind: type[Follower]) -> None:
    follower = kind(tmp_path / "s")
    with pytest.raises(QmondError, match="No such file"):
        follower.run()
    with peer(tmp_path / "s", b"SSH-2.0\n"), pytest.raises(ProtocolError, match="not JSON"):
        follower.run()
    with peer(tmp_path / "s", hello(4)), pytest.raises(QmondError) as caught:
        follower.run(fields=["buf"])
    assert caught.value.hint == "add seq to `fields`"
    assert follower.told == []


def test_who_leaves_hangs_up(tmp_path: Path) -> None:
    waiting = hello(4), TAIL + lines(5), b""
    with (
        peers(tmp_path / "s", waiting) as asked,
        contextlib.closing(follow(tmp_path / "s")) as following,
    ):
        assert [next(following)] == lines(5).splitlines()
    assert ops(asked) == ["tail"], "it waits for no stop"

    async def leave() -> None:
        with peers(tmp_path / "s", waiting):
            async with contextlib.aclosing(follow_async(tmp_path / "s")) as following:
                async for line in following:
                    assert [line] == lines(5).splitlines()
                    break

    asyncio.run(leave())


@pytest.mark.parametrize("answers", [(b"", b""), (hello(4), TAIL, b"")], ids=["greeting", "line"])
def test_a_task_that_is_cancelled_hangs_up(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    follower = AsyncFollower(tmp_path / "s")

    async def cancel() -> None:
        with peers(tmp_path / "s", answers):  # at its end it waits for that
            task = asyncio.create_task(follower.follow())
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert follower.told == []


# ---- arguments that cannot be sent ---------------------------------------------------------------


@pytest.mark.parametrize("choice", [{"guest": "\udcff"}, {"events": ["READ", "\udcff"]}])
def test_a_text_that_is_not_utf_8_is_not_sent(tmp_path: Path, choice: Choice) -> None:
    answer = b'{"id":2,"ok":{"up":1}}\n'
    with peers(tmp_path / "s", (HELLO, answer)) as asked, Client(tmp_path / "s") as client:
        with pytest.raises(RequestError, match=r"(guest|events): a text that is not valid UTF-8"):
            client.tail(**choice)
        assert client.status() == {"up": 1}, "the connection is of use"
    assert [request["op"] for request in asked] == ["status"]


def test_a_path_that_is_no_socket_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = Path("/", "x" * 107)
    for path, told in (
        (tmp_path, f"{tmp_path}: not a socket"),
        (tmp_path / "file", f"{tmp_path}/file: not a socket"),
        (long, f"{long}: path too long, at most 107 bytes"),
    ):
        with pytest.raises(QmondError) as caught:
            Client(path)
        assert str(caught.value) == told
        with pytest.raises(QmondError) as caught:
            asyncio.run(AsyncClient(path).__aenter__())
        assert str(caught.value) == told
    with pytest.raises(QmondError, match="No such file"):
        Client(long.with_name("x" * 106))


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (0, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
     ("5", TypeError), (True, TypeError)],
)  # fmt: skip
def test_a_timeout_is_a_number_above_0(
    tmp_path: Path, timeout: Any, error: type[Exception]
) -> None:
    for connect in (Client, lambda *args, **more: next(follow(*args, **more))):
        with pytest.raises(error, match=r"^timeout: a number of seconds above 0 is expected"):
            connect(tmp_path / "none", timeout=timeout)


@pytest.mark.parametrize("key", ["since", "until"])
def test_a_time_is_a_text(tmp_path: Path, key: str) -> None:
    choice: Any = {key: datetime.now(UTC)}
    with peers(tmp_path / "s", (HELLO,)), Client(tmp_path / "s") as client:
        with pytest.raises(TypeError, match=f"^{key}: a text is expected, such as that of isofor"):
            client.tail(**choice)
        with pytest.raises(TypeError, match=f"^{key}: a text is expected, such as that of isofor"):
            next(follow(tmp_path / "s", **choice))
    with pytest.raises(TypeError, match=r"^pids: a text, a number or a list is expected, not <obj"):
        next(follow(tmp_path / "s", pids=object()))  # type: ignore[arg-type]
