"""The way of a long answer, from the core through the front to a client: none is cut too early."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from qmond.client import Client
from qmond.config.keys import Config
from qmond.daemon.accounts import Rates
from qmond.daemon.answers import answers
from qmond.daemon.channel import Channel
from qmond.errors import RequestError
from qmond.front.answers import operations
from qmond.front.core import Core
from qmond.lines.encoder import Encoder
from qmond.processes.table import Process
from qmond.server.access import Peer, Rights, bind_unix
from qmond.server.hub import Hub
from qmond.server.operations import Answer
from qmond.server.protocol import ANSWER_MAX
from qmond.server.settings import FrontSettings
from qmond.server.source import Log, Source

COUNT = 2000


def processes(size: int) -> list[Process]:
    """Return so many processes in one tree, each with so many bytes of command line."""
    argv = b"x" * size + b"\0"
    return [Process(pid, ppid=min(pid - 1, 10), bin="b", argv=argv) for pid in range(1, COUNT + 1)]


def core_of(found: list[Process]) -> Any:
    """Return the core's answers, for these processes."""
    allocations = {str(process.pid): "x" * 1000 for process in found}
    parts: dict[str, Any] = {
        "status": SimpleNamespace(describe=lambda: {"allocations": allocations}),
        "metrics": None,
        "watch": SimpleNamespace(
            processes=found, allocations=SimpleNamespace(state=lambda _: "counted")
        ),
        "log": None,
    }
    return answers(config=Config, reload=list, rates=Rates(), encoder=Encoder(), **parts)


@contextlib.asynccontextmanager
async def serving(path: Path, found: list[Process]) -> AsyncIterator[Core]:
    """Serve on a socket, with core and front in this process."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)  # noqa: FBT003 - its own signature
    loop = asyncio.get_running_loop()
    channel = Channel(core_of(found), lambda _: None)
    await loop.create_unix_connection(lambda: channel, sock=ours)
    core = Core()
    await loop.create_unix_connection(lambda: core, sock=theirs)
    unused: Any = None
    source = Source(
        operations=operations(core, list),
        about=lambda: {"newest": 0},
        dropped=unused,
        log=Log(str(path.parent)),
        follow=unused,
        tree=unused,
    )
    hub = Hub(FrontSettings(client_buffer=65536), source)
    await hub.listen(bind_unix(path, None))
    answering = asyncio.create_task(channel.answer_forever())
    try:
        yield core
    finally:
        await hub.close()
        answering.cancel()
        channel.end("")
        await asyncio.gather(answering, return_exceptions=True)
        await asyncio.sleep(0.01)  # both ends see that it is over


def asked(path: Path, found: list[Process], ask: Callable[[Client], Any]) -> Any:
    """Return what a client gets."""

    def connect() -> Any:
        with Client(path) as client:
            return ask(client)

    async def run() -> Any:
        async with serving(path, found):
            return await asyncio.to_thread(connect)

    return asyncio.run(run())


def members(tree: list[dict[str, Any]]) -> list[int]:
    """Return the process IDs of a tree."""
    return sorted(pid for node in tree for pid in [node["pid"], *members(node["children"])])


def test_two_thousand_processes_are_shown_whole(tmp_path: Path) -> None:
    def ask(client: Client) -> None:
        listed = client.ps()
        assert not client.truncated
        assert len(orjson.dumps(listed)) > 2 << 20
        assert [row["pid"] for row in listed] == list(range(1, COUNT + 1))
        (root,) = tree = client.request("tree")
        assert not client.truncated
        assert root["pid"] == 1
        assert members(tree) == list(range(1, COUNT + 1))
        assert len(client.status()["allocations"]) == COUNT

    asked(tmp_path / "s", processes(1300), ask)


@pytest.mark.parametrize("size", [1857, 2500])
def test_what_is_too_long_is_cut_after_what_fits(tmp_path: Path, size: int) -> None:
    """All processes are of one tree: it is cut, too, and not left out."""

    def ask(client: Client) -> None:
        listed = client.ps()
        assert client.truncated == (size == 2500)
        tree = client.request("tree")
        assert client.truncated
        found = members(tree)
        assert found == list(range(1, len(found) + 1))
        row = max(len(orjson.dumps(one)) for one in listed) + 20
        assert ANSWER_MAX - 2 * row < len(orjson.dumps(tree)) <= ANSWER_MAX

    asked(tmp_path / "s", processes(size), ask)


def test_trees_leave_time_for_all_else() -> None:
    rows = [{"pid": pid, "ppid": pid // 2, "argv": ["x" * 20] * 20} for pid in range(1, 4000)]
    text = orjson.dumps(rows)

    async def ask(_op: str) -> Answer:
        return Answer(text[:])

    async def run() -> float:
        tree = operations(cast("Core", SimpleNamespace(ask=ask)), list)["tree"].answer
        peer, rights = Peer(1, 1, 1, frozenset()), Rights(ask=True, content=False, control=False)
        began, used = time.monotonic(), time.thread_time()
        while time.monotonic() - began < 2:
            await tree({}, peer, rights)
        return (time.thread_time() - used) / (time.monotonic() - began)

    assert asyncio.run(run()) < 0.6  # a quarter, and what may be spent at once


def test_who_asks_for_trees_without_end_keeps_no_other_question_waiting(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path / "s", []) as core:
            trees = [asyncio.create_task(_tree(core)) for _ in range(500)]
            await asyncio.sleep(1)
            began = asyncio.get_running_loop().time()
            assert orjson.loads((await core.ask("status")).text) == {"allocations": {}}
            assert asyncio.get_running_loop().time() - began < 5
            for task in trees:
                task.cancel()
            kinds = await asyncio.gather(*trees, return_exceptions=True)
            refused = [one for one in kinds if isinstance(one, RequestError)]
            assert {error.kind for error in refused} <= {"TooManyRequests", "Failed"}
            assert sum(error.kind == "TooManyRequests" for error in refused) > 400

    asyncio.run(run())


async def _tree(core: Core) -> Answer:
    return await core.ask("tree", {"pid": 1})
