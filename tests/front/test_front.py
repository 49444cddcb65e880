"""Core and front: what they tell each other, and that a bad front cannot disturb the core."""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from qmond.config.keys import Config, Socket, parse_config
from qmond.daemon.answers import config_of
from qmond.daemon.channel import Channel, Reply
from qmond.daemon.entrance import Entrance
from qmond.daemon.identity import Identity, front_identity, log_group
from qmond.errors import ConfigError, RequestError
from qmond.front.core import Core
from qmond.server.broadcast import Share
from qmond.server.control import Beat, Question, beat, parse, question
from qmond.server.operations import forest
from qmond.server.settings import FrontSettings


def test_messages_come_through_as_they_are() -> None:
    asked = Question(7, "tree", {"pid": 4})
    assert parse(question(asked)) == asked
    assert parse(beat(Beat(1, 2, follow=True))) == Beat(1, 2, follow=True)
    settings = FrontSettings(group="qmon", groups=(None, 5), configured=3, boot_id="b")
    assert FrontSettings.from_json(orjson.loads(orjson.dumps(settings.to_json()))) == settings
    older = settings.to_json() | {"colour": "red"}
    assert FrontSettings.from_json(older) == settings, "of a core of another version"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id":-1,"op":"ps","args":{}}',
        b'{"id":true,"op":"ps","args":{}}',
        b'{"id":1,"op":"exec","args":{}}',
        b'{"id":1,"op":["ps"],"args":{}}',
        b'{"id":1,"op":"ps","args":[]}',
        b'{"beat":{"clients":-1,"dropped":0,"follow":true}}',
        b'{"beat":{"clients":1,"dropped":1e9,"follow":true}}',
        b'{"beat":{"clients":1}}',
        b'{"beat":[]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_message_is_known(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them ends the front
        parse(line)


class Answers:
    """What a core answers, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.beats: list[Beat] = []

    def _say(self, op: str) -> Reply:
        self.asked.append(op)
        return b'{"n":%d}' % len(self.asked), op == "ps"

    def _refuse(self, _args: Mapping[str, Any]) -> Reply:
        raise RequestError("BadConfig", "colour: unknown")

    def table(self) -> dict[str, Any]:
        def fail(_args: Mapping[str, Any]) -> Reply:
            raise TypeError("surrogates not allowed")

        return {
            "status": lambda _: self._say("status"),
            "ps": lambda _: self._say("ps"),
            "follow": lambda _: self._say("follow"),
            "reload": self._refuse,
            "config": fail,
        }


@contextlib.asynccontextmanager
async def channel(answers: Answers) -> AsyncIterator[tuple[Channel, socket.socket]]:
    """Give a core's end that answers, and the other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - its own signature
    theirs.setblocking(False)  # noqa: FBT003 - its own signature
    found = Channel(answers.table(), answers.beats.append)
    await asyncio.get_running_loop().create_unix_connection(lambda: found, sock=ours)
    answering = asyncio.create_task(found.answer_forever())
    try:
        yield found, theirs
    finally:
        answering.cancel()
        found.end("")
        await asyncio.gather(answering, return_exceptions=True)
        await asyncio.sleep(0.01)  # both ends see that it is over
        theirs.close()


def test_a_reload_before_the_front_serves_is_not_lost() -> None:
    async def run() -> bytes:
        async with channel(Answers()) as (found, theirs):
            for number in (b"1", b"2"):
                found.say("settings", 0, number)
            await asyncio.sleep(0.01)
            core = Core()
            await asyncio.get_running_loop().create_unix_connection(lambda: core, sock=theirs)
            return await core.first_settings()

    assert asyncio.run(run()) == b"2"


def test_no_answer_is_older_than_its_request() -> None:
    """`qmonctl record` goes by that: it asks what was counted when its command had ended."""

    async def run() -> None:
        answers = Answers()
        async with channel(answers) as (_, theirs):
            core = Core()
            await asyncio.get_running_loop().create_unix_connection(lambda: core, sock=theirs)
            for number in range(1, 4):
                assert (await core.ask("status")).text == b'{"n":%d}' % number
            early = asyncio.create_task(core.ask("status"))
            await asyncio.sleep(0)
            while not core._waiting:  # until it is sent
                await asyncio.sleep(0)
            late = asyncio.create_task(core.ask("status"))
            assert [(await early).text, (await late).text] == [b'{"n":4}', b'{"n":5}']

    asyncio.run(run())


def test_many_ask_and_the_core_is_asked_once() -> None:
    async def run() -> None:
        answers = Answers()
        async with channel(answers) as (_, theirs):
            core = Core()
            await asyncio.get_running_loop().create_unix_connection(lambda: core, sock=theirs)
            found = await asyncio.gather(*(core.ask("status") for _ in range(500)))
            assert {answer.text for answer in found} == {b'{"n":1}'}
            async with asyncio.timeout(5):  # several under way: none is forgotten with another
                await asyncio.gather(*(core.ask("follow") for _ in range(4)))
            assert (await core.ask("ps")).truncated
            with pytest.raises(RequestError, match="colour: unknown") as caught:
                await core.ask("reload")
            assert caught.value.kind == "BadConfig"
            with pytest.raises(RequestError, match="surrogates"):
                await core.ask("config")
            began = time.monotonic()
            for _ in range(30):  # the same ones mixed: none takes another's answer
                await asyncio.gather(core.ask("status"), core.ask("follow"))
            assert len(answers.asked) < 12 + 10 * (time.monotonic() - began)
            assert answers.asked.count("follow") == 34

    asyncio.run(run())


def test_a_list_that_takes_long_keeps_no_other_question_waiting() -> None:
    """Any user can start the processes, and any client ask for them again and again."""

    class Slow(Answers):
        def table(self) -> dict[str, Any]:
            return super().table() | {"ps": self._list}

        async def _list(self, _args: Mapping[str, Any]) -> Reply:
            end = time.thread_time() + 0.2
            while time.thread_time() < end:
                await asyncio.sleep(0)
            return b"[]", False

    async def run() -> None:
        async with channel(Slow()) as (_, theirs):
            theirs.send(b"".join(question(Question(n, "ps", {})) for n in range(5)))
            await asyncio.sleep(0.5)
            began = time.monotonic()
            theirs.send(question(Question(99, "status", {})))
            async with asyncio.timeout(10):
                while b" 99 " not in await asyncio.get_running_loop().sock_recv(theirs, 65536):
                    pass
            assert time.monotonic() - began < 1

    asyncio.run(run())


def test_a_flood_ends_the_front_and_costs_the_core_little() -> None:
    async def run() -> None:
        answers = Answers()
        async with channel(answers) as (core, theirs):
            line = question(Question(1, "status", {}))
            before = time.process_time()
            with contextlib.suppress(OSError):
                while not core.gone.is_set():
                    with contextlib.suppress(BlockingIOError):
                        theirs.send(line * 1000)
                    await asyncio.sleep(0)
            assert time.process_time() - before < 1
            assert "breaks the protocol" in core.fault
            assert len(answers.asked) <= 11

    asyncio.run(run())


def test_random_bytes_end_the_front() -> None:
    async def run() -> None:
        chance = random.Random(1)  # noqa: S311 - no secret
        for _ in range(50):
            answers = Answers()
            async with channel(answers) as (core, theirs):
                theirs.send(chance.randbytes(chance.randrange(1, 20000)) + b"\n")
                async with asyncio.timeout(10):
                    await core.gone.wait()
                assert core.fault

    asyncio.run(run())


def test_a_front_that_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmond.daemon.channel._UNREAD", 1 << 20)

    async def run() -> None:
        async with channel(Answers()) as (core, _):
            for _ in range(100):
                core.say("ok", 1, b"x" * 100_000)
                if core.gone.is_set():
                    break
            assert core.fault == "it does not read"

    asyncio.run(run())


def test_a_front_whose_core_has_gone_ends_whenever_that_was() -> None:
    """At once, too: the core may end before it has said anything."""
    control, handover = socket.socketpair(), socket.socketpair(type=socket.SOCK_DGRAM)
    wake, share, log = os.pipe(), Share(), os.open("/", os.O_DIRECTORY)
    try:
        given = [control[1].fileno(), handover[1].fileno(), wake[0], share.fd, log]
        words = [sys.executable, "-P", "-m", "qmond.front", *map(str, given)]
        with subprocess.Popen(words, pass_fds=given) as front:
            control[1].close()
            control[0].close()
            try:
                assert front.wait(20) == 0
            finally:
                front.kill()
    finally:
        for end in (*control, *handover):
            end.close()
        for fd in (*wake, log):
            os.close(fd)
        share.close()


# ---- what it is ----------------------------------------------------------------------------------


def test_the_front_is_a_user_that_nobody_has() -> None:
    identity = front_identity(Config())
    if os.geteuid() != 0:
        assert identity is None
        return
    assert identity is not None
    assert 60706 <= identity.uid < 61184, "no distribution gives these away"
    assert log_group(Config()) == identity.gid
    elsewhere = front_identity(parse_config("log: {dir: /var/log/another}", "x"))
    assert elsewhere
    assert elsewhere.uid != identity.uid, "or the one could kill the other's"
    other = parse_config("log: {group: audio}", "x")
    assert front_identity(other) == Identity(identity.uid, 29)


def test_a_group_that_the_socket_cannot_be_given_to_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a service that lacks CAP_CHOWN: played."""

    def refuse(_path: Path, _group: int | None) -> None:
        raise PermissionError(1, "not permitted")

    entrance = Entrance(tmp_path / "s", Socket())
    monkeypatch.setattr("qmond.daemon.entrance.admit", refuse)
    monkeypatch.setattr("qmond.daemon.entrance.group_id", {"games": 60}.get)
    before = entrance.group
    with pytest.raises(ConfigError, match=r"socket.group: .*games's: not permitted"):
        entrance.admit(Socket(group="games"))
    assert entrance.group == before
    entrance.close()
    assert not (tmp_path / "s").exists()


def test_a_group_is_looked_up_when_it_is_to_be_admitted_and_at_no_other_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up may take long: it is made where the daemon's own work waits for it."""
    monkeypatch.setattr("qmond.daemon.entrance.group_id", lambda _: os.getgid())
    entrance = Entrance(tmp_path / "s", Socket())
    monkeypatch.setattr("qmond.daemon.entrance.group_id", lambda _: None)
    assert entrance.group == os.getgid()
    entrance.admit(Socket())
    assert entrance.group is None
    entrance.close()


def test_viewers_do_not_see_what_is_taken_out() -> None:
    assert "redact" in config_of(Config(), whole=True)
    shown = config_of(Config(), whole=False)
    assert "redact" not in shown
    assert shown["events"]


# ---- trees ---------------------------------------------------------------------------------------


def test_a_tree_is_no_deeper_than_parsers_of_json_can_take() -> None:
    chain = [{"pid": pid, "ppid": pid - 1} for pid in range(1, 2001)]
    circle = [{"pid": 5001, "ppid": 5002}, {"pid": 5002, "ppid": 5001}, {"pid": 6, "ppid": 6}]
    roots = forest(chain + circle[:2])
    orjson.loads(orjson.dumps(roots))
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        found.append(node["pid"])
        waiting += node["children"]
    assert sorted(found) == [*range(1, 2001), 5001, 5002]
    assert forest([circle[2]]) == [{"pid": 6, "ppid": 6, "children": []}]
