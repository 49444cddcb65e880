"""A looker and who asks it: real processes, and such as hang, crash or lie."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qmond.looker import asking, requests
from qmond.looker.asking import GoneError, Lookers
from qmond.looker.child import Child
from qmond.looker.requests import Description, Seen
from qmond.looker.scan import matches, scan
from qmond.looker.waiting import Waiting

PROC = Path("/proc")
START = "import orjson, os, signal, socket, sys, time\nc = socket.socket(fileno=int(sys.argv[1]))\n"


def play(
    story: Callable[[Lookers], Awaitable[None]], child: str = "", root: Path = PROC
) -> Lookers:
    """Run a story with lookers; `child` are statements of Python to be one instead."""
    command = (sys.executable, "-c", START + child) if child else None

    async def run() -> Lookers:
        lookers = Lookers(root, command=command)
        try:
            await story(lookers)
        finally:
            await lookers.close()
        return lookers

    return asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = tmp_path / "qemu-x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        while b"1000" not in (PROC / str(process.pid) / "cmdline").read_bytes():
            time.sleep(0.01)
        yield process
        process.kill()


def test_describes_a_process(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    async def story(lookers: Lookers) -> None:
        found = await lookers.describe(sleeper.pid)
        assert found is not None
        assert found.words is not None
        assert found.words.argv == os.fsencode(tmp_path / "qemu-x") + b"\0001000\0"
        assert found.words.filename == os.fsencode(tmp_path / "qemu-x")
        assert (found.outline.comm, found.outline.ppid) == (b"qemu-x", os.getpid())
        assert found.outline.uid == os.getuid()
        assert os.path.basename(found.outline.exe) == b"sleep"
        assert found.outline.parents[0][0] == os.getpid()
        sleeper.kill()
        sleeper.wait()
        with pytest.raises(GoneError):
            await lookers.describe(sleeper.pid)

    play(story)


def test_scans_by_name_and_descent(sleeper: subprocess.Popen[bytes]) -> None:
    async def story(lookers: Lookers) -> None:
        found = await lookers.scan((b"qemu-",), (b"qemu-system",))
        assert sleeper.pid in [seen.pid for seen in found]
        assert os.getpid() not in [seen.pid for seen in found]
        assert len(await lookers.scan((b"",), ())) > len(found)

    play(story)


HELLO = "c.send(b'{}')\n"
NEVER = HELLO + "while True: c.recv(9999); time.sleep(1000)\n"
OUTLINE = requests.Outline(b"x", 1, 2, 1000, b"/x", None, (), ())
FIRST = (
    '{"outline":{"comm":"x","ppid":1,"start":2,"uid":1000,"exe":"/x","cgroup":null,'
    '"parents":[],"rings":[]}}'
)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_DEADLINE", 0.2)
    monkeypatch.setattr(asking, "_BACK_OFF", (0.0, 0.1))


def test_one_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def story(lookers: Lookers) -> None:
        for _ in range(2):
            before = time.monotonic()
            assert await lookers.describe(1) is None
            assert time.monotonic() - before < 10
        assert lookers.left_behind == 0

    play(story, NEVER)


def test_what_was_said_before_it_hung_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def story(lookers: Lookers) -> None:
        assert await lookers.describe(1) == Description(OUTLINE, None)

    play(story, f"{HELLO}c.recv(9999); c.send(b'''{FIRST}'''); time.sleep(1000)\n")


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "[]",
        "{}",
        FIRST.replace("1000", "-1"),
        FIRST.replace("1000", "true"),
        FIRST.replace('"/x"', '"\u0100"'),
        FIRST.replace('"/x"', '"%s"' % ("x" * 5000)),
        FIRST.replace('"parents":[]', '"parents":[[1]]'),
        FIRST.replace('"rings":[]', '"rings":["1"]'),
        FIRST.replace('"rings":[]', '"rings":[],"more":1'),
    ],
)
def test_one_that_lies_is_replaced(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def story(lookers: Lookers) -> None:
        assert await lookers.describe(1) is None
        assert await lookers.describe(1) is None

    play(story, f"{HELLO}c.recv(9999); c.send({answer.encode()!r}); c.recv(9999)\n")


def test_one_that_crashes_is_replaced_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    async def story(lookers: Lookers) -> None:
        for _ in range(3):
            assert await lookers.describe(1) is None

    play(story, f"{HELLO}c.recv(9999)\n")
    play(story, "sys.exit(1)\n")


@pytest.mark.parametrize("work", ["while True: pass", "bytearray(1 << 30)"])
def test_an_answer_may_cost_so_much(
    work: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asking, "_DEADLINE", 30.0)

    async def story(lookers: Lookers) -> None:
        assert await lookers.describe(1) is None

    play(
        story,
        "from qmond.looker import process\nc.detach()\n"
        "process._CPU['describe'] = 0.2\n"
        f"def work(*_):\n    {work}\n"
        "process.outline = work\nprocess.main()\n",
    )
    assert "hung up" in caplog.text


class Held(Child):
    """A looker that SIGKILL does not end: it waits where the kernel lets nobody go."""

    def kill(self) -> None:
        self._channel.close()

    async def has_ended(self) -> bool:
        return False


def test_no_more_are_left_behind_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    children: list[Held] = []

    def start(*args: Any) -> Held:
        children.append(Held(*args))
        return children[-1]

    monkeypatch.setattr(asking, "Child", start)
    risky = (
        f"{HELLO}\n"
        "while True:\n"
        "    r = orjson.loads(c.recv(9999)); uid = r['pid'] // 100\n"
        f"    c.send(b'''{FIRST}'''.replace(b'1000', b'%d' % uid))\n"
        "    if r['risky'] and uid not in r['spared']: signal.pause()\n"
        """    c.send(b'{"words":null}')\n"""
    )

    async def story(lookers: Lookers) -> None:
        for pid in (101, 102, 101, 150):  # of one user
            assert await lookers.describe(pid)
            assert lookers.left_behind == 1
        for pid, left in ((1, 2), (1, 2), (2, 3), (200, 4), (300, 4), (3, 4)):  # root's, others'
            assert await lookers.describe(pid)
            assert lookers.left_behind == left, pid
        assert await lookers.probe(301, 3, 0, "qemu-arm") is None
        os.kill(children[0].pid, signal.SIGKILL)  # the file system answers
        while lookers.left_behind == 4:
            await asyncio.sleep(0.01)
        assert await lookers.describe(101)
        assert lookers.left_behind == 4

    try:
        play(story, risky)
    finally:
        for child in children:
            with_pid = child.pid
            try:
                os.kill(with_pid, signal.SIGKILL)
                os.waitpid(with_pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue


def test_a_looker_that_nobody_asks_ends(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_IDLE", 0.3)

    async def story(lookers: Lookers) -> None:
        assert await lookers.describe(sleeper.pid)
        first = lookers._child
        assert first is not None
        async with asyncio.timeout(10):
            while lookers._child is not None or (PROC / str(first.pid)).exists():
                await asyncio.sleep(0.05)
        assert await lookers.describe(sleeper.pid), "there is another one, when it is needed"

    play(story)


def test_a_looker_ends_with_who_asked() -> None:
    code = (
        "import asyncio, os\nfrom pathlib import Path\nfrom qmond.looker.asking import Lookers\n"
        "async def main():\n"
        "    lookers = Lookers(Path('/proc'))\n"
        "    await lookers.describe(os.getpid())\n"
        "    print(lookers._child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    looker = PROC / done.stdout.decode().strip()
    end = time.monotonic() + 20
    while looker.exists() and "\nState:\tZ" not in (looker / "status").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nobody_waits_for_another_users_questions() -> None:
    waiting: Waiting[str] = Waiting(6)
    for number in range(4):
        assert waiting.put(1000, f"a{number}") is None
    assert waiting.put(1001, "b0") is None
    assert waiting.put(None, "c0") is None
    assert waiting.put(1001, "b1") == "a3", "who has most gives way"
    assert [waiting.take() for _ in range(6)] == ["a0", "b0", "c0", "a1", "b1", "a2"]
    assert len(waiting) == 0
    with pytest.raises(IndexError):
        waiting.take()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"qemu-arm", True),
        (b"qemu-aarch64-st", True),
        (b"qemu-system-x86_64", False),
        (b"bash", False),
        (b"my-qemu-arm", False),
    ],
)
def test_matches_by_prefix(name: bytes, wanted: bool) -> None:  # noqa: FBT001
    assert matches(name, (b"qemu-",), (b"qemu-system",)) is wanted


def process(root: Path, pid: int, ppid: int, comm: str, exe: str, state: str = "S") -> None:
    folder = root / str(pid)
    folder.mkdir()
    numbers = " ".join(["0"] * 17)
    (folder / "stat").write_text(f"{pid} ({comm}) {state} {ppid} {numbers} 500 0 0\n")
    (folder / "status").write_text("Uid:\t1000\t1000\t1000\t1000\n")
    os.symlink(exe, folder / "exe")


def test_scans_by_file_name_by_comm_and_by_descent(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, "prog", "/usr/bin/qemu-arm-static")  # through binfmt_misc
    process(tmp_path, 11, 1, "qemu-arm", "/opt/emulator")
    process(tmp_path, 12, 10, "sh", "/bin/dash")  # a guest's child that runs native code
    process(tmp_path, 13, 12, "sleep", "/bin/sleep")
    process(tmp_path, 20, 1, "bash", "/bin/bash")
    process(tmp_path, 21, 1, "qemu-system-arm", "/usr/bin/qemu-system-arm")
    process(tmp_path, 22, 1, "qemu-arm", "/usr/bin/qemu-arm", state="Z")
    found = {seen.pid: seen for seen in scan(tmp_path, (b"qemu-",), (b"qemu-system",))}
    assert set(found) == {10, 11, 12, 13}
    assert found[12] == Seen(12, 10, 500, 1000)
