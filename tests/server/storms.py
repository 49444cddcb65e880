"""Requests that nobody thought of: a hub must answer each, and grow by nothing.

python tests/server/storms.py storm 1000000     against a hub on a real socket
python tests/server/storms.py guided 1000000    its parsers, guided by coverage (pip: atheris)
"""

import asyncio
import json
import random
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from qmond.errors import RequestError
from qmond.events.table import NUMBER
from qmond.log.files import Position
from qmond.server.access import bind_unix
from qmond.server.feed import LiveStart
from qmond.server.filters import Filter
from qmond.server.hub import Hub
from qmond.server.operations import Answer, Operation
from qmond.server.protocol import LineReader, parse_request, parse_selection
from qmond.server.settings import FrontSettings
from qmond.server.shares import Shares
from qmond.server.source import Log, Source

ALL = (1 << len(NUMBER)) - 1
AT_ONCE = 500
WORDS = ["tail", "stop", "status", "config", "", "READ", "x" * 5000, "\u0000\u202e", "*", "fd == 0"]
KEYS = ["id", "op", "args", "events", "pids", "tree", "where", "last", "since", "follow", "nosuch"]
NUMBERS = [0, -1, 1, 2**63, 2**64, 1e308, 0.5]
SEEDS: list[dict[str, Any]] = [
    {"events": ["READ", "EXIT"], "pids": [1, 2]},
    {"tree": 1, "arch": ["arm"], "guest": "*/sh", "follow": True},
    {"where": 'fd == 0 && buf.contains("x") || size(argv) > 2'},
    {"where": "argv.exists(a, a.startsWith('x')) ? len > 3 : !(pid in [1, 2])"},
    {"from_seq": 5, "fields": ["fd", "pid"]},
    {"since": "5m", "follow": False},
    {"since": "2026-11-23T08:00:00Z", "last": None},
    {"last": 10},
]
LINE = b'{"ts":1.0,"event":"READ","pid":1,"fd":0,"buf":"x","seq":1}\n'


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return any JSON value, mostly a likely one."""
    kind = chance.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return chance.choice(WORDS)
    if kind < 4:
        return chance.choice(NUMBERS)
    if kind == 4:
        return chance.choice([None, True, False])
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def asked(chance: random.Random, number: int) -> bytes:
    """Return a line that has this `id`, if it has any; it needs no reader of its own."""
    kind = chance.randrange(10)
    if kind == 0:
        line = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 60)))
        return line.replace(b"\n", b"x")
    op = chance.choice(["status", "tail", "stop", "reboot", value(chance)])
    args = value(chance)
    if isinstance(args, dict):
        for key in ("tree", "arch", "guest", "where", "fields", "from_seq", "since", "last"):
            args.pop(key, None)
    whole = json.dumps({"id": number, "op": op, "args": args}).encode()
    return whole[: chance.randrange(1, len(whole))] if kind == 1 else whole


def resident() -> int:
    """Return this process' resident memory in kB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


async def _fine(*_: object) -> Answer:
    return Answer(b'{"fine":true}')


async def _live_start(*_: int) -> LiveStart:
    return LiveStart(1, Position(0, 0, 0))


async def storm(count: int, seed: int) -> int:
    """Ask a hub so many times, and return by how many kB it grew after the first tenth."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory(prefix="qmond-fuzz-") as name:
        path = Path(name) / "s"
        source = Source(
            operations={"status": Operation(_fine), "config": Operation(_fine)},
            about=lambda: {"newest": 1},
            dropped=lambda lost: b'{"event":"DROPPED","count":%d}\n' % lost,
            log=Log(name),
            follow=_live_start,
            tree=_live_start,
        )
        hub = Hub(FrontSettings(configured=ALL), source)
        hub.shares = Shares(1000, 1000)  # it is about requests, not about patience
        await hub.listen(bind_unix(path, None))
        before = 0
        try:
            for done in range(0, count, AT_ONCE):
                before = before if done > count // 10 else resident()
                await _ask(path, [asked(chance, done + at) for at in range(AT_ONCE)])
        finally:
            await hub.close()
        return resident() - before


async def _ask(path: Path, lines: list[bytes]) -> None:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    await reader.readline()
    writer.write(b"\n".join(lines) + b"\n")
    async with asyncio.timeout(60):
        for line in lines:
            answer = json.loads(await reader.readline())
            assert ("ok" in answer) != ("error" in answer), line
            try:
                sent = json.loads(line)
            except ValueError:
                sent = None
            wanted = sent.get("id") if isinstance(sent, dict) and "error" not in answer else None
            assert wanted is None or answer["id"] == wanted, line
    writer.close()
    await writer.wait_closed()


def parse(data: bytes) -> None:
    """Do with a line all that daemon and reader do."""
    for line in LineReader(4096).feed(data + b"\n"):
        try:
            request = parse_request(line or b"")
            Filter(parse_selection(request.args, ALL, 0.0), content=False)(LINE)
        except RequestError as error:
            assert error.args[0]


def main() -> None:
    """Run one of the two."""
    mode, count = sys.argv[1], int(sys.argv[2])
    if mode == "storm":
        print(f"{count} requests answered, {asyncio.run(storm(count, 1))} kB more memory")
        return
    import atheris

    with tempfile.TemporaryDirectory(prefix="qmond-fuzz-") as corpus:
        for at, args in enumerate(SEEDS):
            line = json.dumps({"id": at, "op": "tail", "args": args}).encode()
            (Path(corpus) / str(at)).write_bytes(line)
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], f"-runs={count}", "-max_len=400", corpus], parse)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
