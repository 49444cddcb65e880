"""docs/client.md: its examples run, print what the page says, and have right types.

So does the example in the docstring of the module.
"""

import asyncio
import json
import os
import re
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from serving import Connect, framed, play

import qmond.client
from qmond.events.table import NUMBER
from qmond.lines.encoder import Encoder
from qmond.server.broadcast import Frame
from qmond.server.hub import Hub
from qmond.server.operations import Answer, Operation

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/client.md").read_text()
EXAMPLES: list[tuple[str, str]] = re.findall(r"(?s)```python\n(.*?)```\n\n```\n(.*?)```", PAGE)
"""Each example, and what it prints."""
DOCSTRING = textwrap.dedent("".join(re.findall(r"(?m)^(?:    .*)?\n", str(qmond.client.__doc__))))
SENSOR: dict[str, Any] = {"arch": "aarch64", "guest": "/srv/sensor"}
RUN: list[dict[str, Any]] = [
    {"event": "TRACK_ADOPT", "pid": 1622, **SENSOR},
    {"event": "TRACK_FORK", "parent": 1622, "child": 1624, **SENSOR},
    {"event": "EXEC", "pid": 1624, "filename": "/bin/echo", "guest": "/bin/echo"},
    {"event": "WRITE", "pid": 1624, "fd": 1, "buf": "a program\n", "guest": "/bin/echo"},
    {"event": "EXIT", "pid": 1624, "code": 0, "guest": "/bin/echo"},
    {"event": "CONNECT", "pid": 1622, "addr": "127.0.0.1:4444", **SENSOR},
    {"event": "WRITE", "pid": 1622, "fd": 1, "buf": "vm\n", **SENSOR},
    {"event": "EXIT", "pid": 1622, "code": 0, **SENSOR},
]
"""What one run of a guest looks like."""
FIRST = 93
"""The number of the first line in the log: the last one of the first run is 100."""


def run_of(first: int) -> Frame:
    """Return the lines of a run, as of now."""
    encoder = Encoder(seq=first)
    for seq, event in enumerate(RUN, first):
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        row = {"ts": time.monotonic(), **event, "time": moment, "seq": seq}
        pid = event.get("pid", 1622)
        text = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        encoder.append(text, NUMBER[event["event"]], pid, event.get("child", pid))
    return framed(encoder)


async def ps(*_: object) -> Answer:
    return Answer(json.dumps([{"pid": 1622, **SENSOR}]).encode())


async def run_again_and_again(hub: Hub, log: Path) -> None:
    first = FIRST + len(RUN)
    while True:
        frame = run_of(first)
        with log.open("ab") as file:
            file.write(frame.data)
        hub.broadcast(frame)
        first += len(RUN)
        await asyncio.sleep(0.05)


async def printed(example: str, folder: Path) -> str:
    """Return what an example prints, which ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", example,
        cwd=folder, env={**os.environ, "QMOND_SOCKET": str(folder / "s")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            return (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()


def test_every_example_has_what_it_prints() -> None:
    assert len(EXAMPLES) == PAGE.count("```python")


@pytest.mark.parametrize(("example", "output"), [*EXAMPLES, (DOCSTRING, "vm\n\n")])
def test_an_example_prints_what_the_page_says(example: str, output: str, tmp_path: Path) -> None:
    said = []
    log = tmp_path / "events.jsonl"

    async def scenario(hub: Hub, _connect: Connect) -> None:
        log.write_bytes(run_of(FIRST).data)
        hub.broadcast(run_of(FIRST))
        if "follow=False" in example:  # it is about the past alone
            said.append(await printed(example, tmp_path))
            return
        running = asyncio.create_task(run_again_and_again(hub, log))
        said.append(await printed(example, tmp_path))
        running.cancel()

    mine = os.getgid(), os.getgid()
    play(tmp_path / "s", scenario, operations={"ps": Operation(ps)}, groups=mine)
    assert said == [output]


def test_the_examples_have_right_types(tmp_path: Path) -> None:
    import mypy.api

    for number, example in enumerate([DOCSTRING, *(example for example, _ in EXAMPLES)]):
        (tmp_path / f"example_{number}.py").write_text(example)
    said, _, status = mypy.api.run(
        ["--strict", "--config-file=", f"--cache-dir={tmp_path}/cache", str(tmp_path)]
    )
    assert status == 0, said
