"""`qmonctl top`, driven by textual's pilot, with a client that is made up."""

import asyncio
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from standin import answers, standing_in
from standin import process as process_of
from textual.widgets import DataTable, Static

from qmond.client import Client
from qmond.ctl import main
from qmond.ctl.show.sampling import COLUMNS, Sample, Sampler, rows_of, summary
from qmond.ctl.show.screen import Top
from qmond.errors import QmondError


def process(pid: int, rate: int, guest: str | None = "/bin/sh") -> dict[str, Any]:
    return {"pid": pid, "guest": guest, "bin": "qemu-arm", "arch": "arm", "rate": rate,
            "events": pid * 10, "comm": "sh", "age": 61.0, "uid": 0}  # fmt: skip


class Daemon:
    """Stands for the client: a daemon that goes on, or is away."""

    truncated = False

    def __init__(self) -> None:
        self.away = False
        self.seen = 0
        self.processes = [process(1, 5), process(2, 50), process(3, 0, "[red]\x1b[2J")]

    def ps(self) -> list[dict[str, Any]]:
        if self.away:
            raise QmondError("the daemon hung up")
        return self.processes

    def status(self) -> dict[str, Any]:
        self.seen += 100
        row = {"seen": self.seen, "written": self.seen, "lost": 0, "suppressed": 0}
        return {"counters": {"READ": row}}

    def close(self) -> None:
        pass


def sampler(daemon: Daemon) -> Sampler:
    def connect() -> Client:
        if daemon.away:
            raise QmondError("/run/x: No such file or directory", hint="is it running?")
        return daemon  # type: ignore[return-value] # all that is needed of one

    return Sampler(connect)


def test_rows_are_sorted_and_harmless() -> None:
    rows = rows_of(Daemon().processes, "EV/S", reverse=False)
    assert [row[0] for row in rows] == ["2", "1", "3"]
    assert rows[2][1] == "[red]\\x1b[2J"
    assert rows[0][COLUMNS.index("AGE")] == "1m01s"
    assert [row[0] for row in rows_of(Daemon().processes, "PID", reverse=True)] == ["1", "2", "3"]
    assert [row[0] for row in rows_of(Daemon().processes, "GUEST", reverse=False)][-1] == "3"


def test_samples_have_rates_and_survive_the_daemons_absence() -> None:
    daemon = Daemon()
    asking = sampler(daemon)
    assert asking.sample().rates == {}
    second = asking.sample()
    assert second.rates["READ"] > 0
    assert second.totals["seen"] == 200
    assert "READ" in summary(second)
    assert summary(second).startswith("3 processes")
    daemon.truncated = True
    assert summary(asking.sample()).startswith("3 processes (not all)")
    daemon.away = True
    assert summary(asking.sample()).startswith("the daemon hung up")
    assert "No such file" in summary(asking.sample())
    daemon.away = False
    assert asking.sample().error == ""
    assert "quiet" in summary(Sample())


def test_keys_and_sizes() -> None:
    daemon = Daemon()
    app = Top(sampler(daemon), every=0.05)

    async def play() -> None:
        async with app.run_test(size=(100, 20)) as pilot:
            table: DataTable[Any] = app.query_one(DataTable)

            def pids() -> list[str]:
                return [str(table.get_row_at(at)[0]) for at in range(table.row_count)]

            async def until(wanted: list[str]) -> None:
                async with asyncio.timeout(10):
                    while pids() != wanted:
                        await pilot.pause(0.02)

            await until(["2", "1", "3"])
            assert str(table.get_row_at(2)[1]) == "[red]\\x1b[2J"
            await pilot.press("r")
            await until(["3", "1", "2"])
            await pilot.press("r", "s")  # by EVENTS, which are ten times the process' number
            await until(["3", "2", "1"])
            await pilot.press("p")
            daemon.processes = [process(9, 1)]
            await pilot.pause(0.3)
            assert pids() == ["3", "2", "1"], "it is paused"
            await pilot.resize_terminal(40, 10)
            await pilot.press("p")
            await until(["9"])
            daemon.away = True
            async with asyncio.timeout(10):
                while "trying again" not in str(app.query_one(Static).content):
                    await pilot.pause(0.02)
            daemon.away = False
            await until(["9"])
            await pilot.press("q")
        assert app.return_code == 0

    asyncio.run(play())


@pytest.mark.parametrize(
    ("stop", "statuses"),
    [
        ("q", {0}),
        ("\x03", {130}),
        (signal.SIGINT, {130, -signal.SIGINT}),
        (signal.SIGTERM, {-signal.SIGTERM}),
    ],
)
def test_it_ends_on_a_terminal_that_is_as_before(
    tmp_path: Path, stop: str | int, statuses: set[int]
) -> None:
    """With 2,000 processes, of which the answer has more than a mebibyte."""
    many = [process_of(pid, 1, f"/opt/{'x' * 500}/{pid}") for pid in range(2, 2002)]
    with standing_in(tmp_path / "s", answers(tmp_path) | {"ps": many}):
        terminal, other = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
        before = termios.tcgetattr(other)
        command = [sys.executable, "-c", "from qmond.ctl import main; raise SystemExit(main())"]
        with subprocess.Popen(
            [*command, "--socket", tmp_path / "s", "top"],
            stdin=other, stdout=other, stderr=other, process_group=0,
            env=os.environ | {"TERM": "xterm"},
        ) as top:  # fmt: skip
            assert "2000 processes" in read_until(terminal, "2000 processes")
            if isinstance(stop, str):
                os.write(terminal, stop.encode())
            else:
                top.send_signal(stop)
            rest = ""
            end = time.monotonic() + 20
            while top.poll() is None and time.monotonic() < end:
                rest += read_until(terminal, "\x1b[?1049l", 0.1)
            top.kill()
            assert top.returncode in statuses
        assert "Traceback" not in rest + read_until(terminal, "Traceback", 0.1)
        if stop != signal.SIGTERM:
            assert termios.tcgetattr(other) == before
        os.close(terminal)
        os.close(other)


def read_until(terminal: int, mark: str, patience: float = 20) -> str:
    said = ""
    while mark not in said and select.select([terminal], [], [], patience)[0]:
        said += os.read(terminal, 65536).decode(errors="replace")
    return said


def test_needs_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 1
    assert "top needs a terminal" in capsys.readouterr().err
