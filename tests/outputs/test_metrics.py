"""The metrics: their text, the little HTTP, the file, and the rules and dashboard that use them."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from qmond.bpf.probes import Counter
from qmond.config.keys import Config, hold, parse_config
from qmond.config.keys import Metrics as Section
from qmond.daemon import exporting
from qmond.daemon.accounts import Accounts
from qmond.daemon.exporting import listening, write_forever, write_whole
from qmond.daemon.metrics import Metrics
from qmond.errors import ConfigError
from qmond.outputs import exporter as scrape
from qmond.outputs.exporter import Exporter, respond
from qmond.outputs.exposition import Family, render

if TYPE_CHECKING:
    from qmond.bpf.ring import RingBuffer
    from qmond.daemon.fronting import Fronting
    from qmond.log.keeper import LogKeeper

PACKAGING = Path(__file__).parents[2] / "packaging"
PROMTOOL = Path(sys.executable).parent.parent / "prometheus/usr/bin/promtool"


def promtool(*arguments: str | Path, given: bytes = b"") -> None:
    assert PROMTOOL.exists(), "run `sudo script/setup test`"
    command = [str(PROMTOOL), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Read a scrape by the client library's own parser."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


# ---- the text ----------------------------------------------------------------------------------


def test_no_label_and_no_help_breaks_the_text() -> None:
    hard = 'a\\b"c\nd 1\nqmond_forged 1\n\u20ac'
    text = render([Family("x_total", "counter", hard, ("l", "m"), {(hard, "n"): 3, ("", ""): 0.5})])
    (family,) = text_string_to_metric_families(text.decode())
    assert (family.name, family.type, family.documentation) == ("x", "counter", hard)
    assert [(sample.labels, sample.value) for sample in family.samples] == [
        ({"l": hard, "m": "n"}, 3),
        ({"l": "", "m": ""}, 0.5),
    ]


class Source:
    """What the figures are read from; `asked` is how often the kernel side was."""

    def __init__(self) -> None:
        self.asked = 0
        self.accounts = Accounts(self._counters)
        self.accounts.written["READ"] = 11
        self.accounts.not_logged["READ"] = 2
        self.accounts.made["START"] = self.accounts.written["START"] = 1

    def _counters(self) -> dict[str, Counter]:
        self.asked += 1
        counters = {name: Counter(0, 0, 0) for name in Config().events}
        return counters | {"READ": Counter(seen=20, lost=3, suppressed=4)}

    def metrics(self) -> Metrics:
        log = {"total": 1 << 60, "bytes": 5, "rotated": 2, "rotated_bytes": 6, "failing": False}
        return Metrics(
            config=Config,
            ring=cast("RingBuffer", SimpleNamespace(used=7, size=4096)),
            accounts=self.accounts,
            processes=[1, 2, 3],
            log=cast("LogKeeper", SimpleNamespace(describe=lambda: log)),
            front=cast("Fronting", SimpleNamespace(clients=2, dropped=9)),
        )


def test_the_figures_are_those_of_the_books() -> None:
    of = Source()
    found = samples(of.metrics().text())
    assert found["qmond_events_total", "READ"] == 20
    assert found["qmond_events_total", "START"] == 1
    assert found["qmond_events_written_total", "READ"] == 11
    assert found["qmond_events_suppressed_total", "READ"] == 4
    assert found["qmond_events_lost_total", "READ", "ring"] == 3
    assert found["qmond_events_lost_total", "READ", "log"] == 2
    assert found["qmond_client_dropped_total",] == 9
    assert found["qmond_clients",] == 2
    assert found["qmond_tracked_processes",] == 3
    assert found["qmond_ring_used_bytes",] == 7
    assert found["qmond_ring_size_bytes",] == 4096
    assert found["qmond_log_bytes_total",] == 1 << 60
    assert found["qmond_log_failing",] == 0


def test_every_event_has_its_series_from_the_start() -> None:
    """A rate needs a 0 to grow from."""
    found = samples(Source().metrics().text())
    for event in Config().events:
        assert ("qmond_events_total", event) in found
        assert ("qmond_events_lost_total", event, "ring") in found


def test_the_process_is_told_as_it_is() -> None:
    found = samples(Source().metrics().text())
    age = int(subprocess.check_output(["ps", "-o", "etimes=", "-p", str(os.getpid())]))
    assert time.time() - found["process_start_time_seconds",] == pytest.approx(age, abs=2)
    assert 0 < found["process_cpu_seconds_total",] <= time.process_time()
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    resident = int(status["VmRSS"].split()[0]) << 10
    assert found["process_resident_memory_bytes",] == pytest.approx(resident, rel=0.2)


def test_promtool_finds_no_fault_in_a_scrape() -> None:
    promtool("check", "metrics", given=Source().metrics().text())
    promtool("check", "metrics", given=Source().metrics().file())


def test_asking_often_reads_the_kernel_seldom() -> None:
    of = Source()
    metrics = of.metrics()
    for _ in range(100):
        metrics.text()
    assert of.asked == 1


def test_the_file_has_no_name_of_the_exporter_that_shows_it() -> None:
    names = {key[0] for key in samples(Source().metrics().file())}
    assert {name.partition("_")[0] for name in names} == {"qmond"}
    assert "qmond_process_open_fds" in names


# ---- the configuration -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:9839", "127.1.2.3:1", '"[::1]:65535"', "unix:/run/qmond/metrics.sock"],
)
def test_the_host_itself_may_ask(address: str) -> None:
    config = parse_config(f"metrics: {{listen: {address}}}", "x")
    assert config.metrics.listen == address.strip('"')


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:9839",
        '"[::]:9839"',
        "192.168.1.1:9839",
        "localhost:9839",
        '":9839"',
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.256:80",
        "127.0.0.1:٣",
        "unix:relative",
        "unix:/" + "x" * 101,
        "9839",
        "true",
    ],
)
def test_nobody_else_may(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"metrics: {{listen: {address}}}", "x")
    (fault,) = caught.value.faults
    assert fault.startswith("x:1: metrics.listen: is")
    assert "expected a" in fault


def test_a_text_file_is_called_as_its_reader_wants_it() -> None:
    assert parse_config("metrics: {textfile: /a/b.prom}", "x").metrics.textfile == Path("/a/b.prom")
    with pytest.raises(ConfigError, match=r"an absolute path that ends in \.prom"):
        parse_config("metrics: {textfile: /a/b.txt}", "x")


def test_a_reload_says_that_metrics_wait_for_a_restart() -> None:
    config = parse_config("metrics: {listen: 127.0.0.1:1, interval: 5s}", "x")
    held, later = hold(config, Config())
    assert (held, later) == (Config(), ["metrics.listen", "metrics.interval"])


# ---- HTTP --------------------------------------------------------------------------------------


def figures() -> bytes:
    return b"figures\n"


async def told() -> bytes:
    return figures()


async def failing() -> bytes:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET //metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"get /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000, 431),
    ],
)
def test_each_request_has_its_answer(request_: bytes, status: int) -> None:
    head, _, body = asyncio.run(respond(request_, told)).partition(b"\r\n\r\n")
    assert head.split()[1] == b"%d" % status
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert (body == figures()) == (status == 200)
    assert (b"Allow: GET" in head) == (status == 405)


def test_figures_that_cannot_be_had_are_an_error_of_the_server() -> None:
    said = asyncio.run(respond(b"GET /metrics HTTP/1.1\r\n\r\n", failing))
    assert b"500" in said.splitlines()[0]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


ASK = b"GET /metrics HTTP/1.1\r\n\r\n"


async def ask(address: str, request: bytes = ASK) -> bytes:
    async with asyncio.timeout(20):
        while True:
            try:
                if address.startswith("unix:"):
                    reader, writer = await asyncio.open_unix_connection(address[5:])
                else:
                    host, _, port = address.rpartition(":")
                    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.write(request)
            try:
                return await reader.read()
            finally:
                writer.close()


async def serve(address: str) -> None:
    """Serve as core and front do together."""
    found: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(listening(address, lambda: None, found.set_result))
        tasks.create_task(Exporter(told).serve_forever(await found))


def play(address: str, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario while the figures are served."""

    async def run() -> None:
        serving = asyncio.create_task(serve(address))
        try:
            await scenario()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        assert serving.cancelled()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["127.0.0.1", "[::1]", "unix"])
def test_the_figures_are_served(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    address = f"unix:{path}" if kind == "unix" else f"{kind}:{free_port()}"

    async def scenario() -> None:
        assert (await ask(address)).endswith(b"\r\n\r\n" + figures())
        if kind == "unix":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600  # there is no group

    play(address, scenario)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to other groups")
def test_the_socket_follows_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmond.daemon.exporting._RETRY", 0.01)
    path = tmp_path / "metrics.sock"
    groups: list[int | None] = [60]

    def door() -> tuple[int, int]:
        found = path.stat() if path.exists() else None
        return (stat.S_IMODE(found.st_mode), found.st_gid) if found else (0, 0)

    async def run() -> None:
        work = listening(f"unix:{path}", lambda: groups[0], lambda _: None)
        task = asyncio.create_task(work)
        for group, wanted in (
            (60, (0o660, 60)),
            (50, (0o660, 50)),
            (None, (0o600, 50)),
            (60, (0o660, 60)),
        ):
            groups[0] = group
            async with asyncio.timeout(20):
                while door() != wanted:
                    await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_what_comes_in_pieces_is_understood() -> None:
    address = f"127.0.0.1:{free_port()}"

    async def scenario() -> None:
        await ask(address)
        reader, writer = await asyncio.open_connection(*address.split(":"))
        for byte in ASK:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        assert b"200 OK" in await reader.read()
        writer.close()

    play(address, scenario)


def test_silent_connections_end_and_let_others_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "_PATIENCE", 0.5)
    address = f"127.0.0.1:{free_port()}"

    async def scenario() -> None:
        await ask(address)
        silent = [await asyncio.open_connection(*address.split(":")) for _ in range(8)]
        began = time.monotonic()
        assert b"200 OK" in await ask(address)
        assert 0.3 < time.monotonic() - began < 10
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()

    play(address, scenario)


def test_an_endless_request_is_cut_off() -> None:
    address = f"127.0.0.1:{free_port()}"

    async def scenario() -> None:
        assert b"431" in await ask(address, b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 2000)

    play(address, scenario)


def test_asking_in_a_loop_leaves_the_loop_time() -> None:
    address = f"127.0.0.1:{free_port()}"

    async def scenario() -> None:
        await ask(address)
        began, asked = time.monotonic(), 0

        async def hammer() -> None:
            nonlocal asked
            while time.monotonic() - began < 1:
                await ask(address)
                asked += 1

        await asyncio.gather(*(hammer() for _ in range(32)))
        took = time.monotonic() - began
        assert 0 < asked <= (took / scrape._PAUSE + 1) * scrape.PLACES

    play(address, scenario)


def test_a_taken_address_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporting, "_RETRY", 0.1)
    taken = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"

    async def scenario() -> None:
        await asyncio.sleep(0.5)
        taken.close()
        assert b"200 OK" in await ask(address)

    play(address, scenario)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"metrics.listen: {address}: Address already in use" in warning.message


def test_a_socket_is_not_taken_from_another_and_no_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporting, "_RETRY", 0.1)
    path, file = tmp_path / "used.sock", tmp_path / "file"
    file.write_text("mine")

    async def scenario() -> None:
        await asyncio.sleep(0.3)

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        play(f"unix:{path}", scenario)
    assert "another program listens there" in caplog.text
    assert path.is_socket()
    play(f"unix:{file}", scenario)
    assert file.read_text() == "mine"

    async def asked() -> None:
        assert b"200 OK" in await ask(f"unix:{path}")

    play(f"unix:{path}", asked)  # what a killed daemon leaves is in nobody's way


# ---- the file ----------------------------------------------------------------------------------


def test_the_file_is_whole_for_all_and_no_link_is_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "qmond.prom", tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    path.symlink_to(elsewhere)
    write_whole(path, b"x 1\n")
    assert path.read_bytes() == b"x 1\n"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert elsewhere.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [elsewhere, path]


def test_where_it_cannot_be_written_nothing_is_left_and_it_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "qmond.prom"
    path.mkdir()

    async def run(seconds: float) -> None:
        section = Section(textfile=path, interval=0.05)
        writing = asyncio.create_task(write_forever(section, figures))
        await asyncio.sleep(seconds)
        if path.is_dir():
            path.rmdir()
            await asyncio.sleep(seconds)
            assert path.read_bytes() == figures()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(run(0.4))
    assert caplog.text.count("metrics.textfile") == 1
    assert list(tmp_path.iterdir()) == []  # the daemon's end takes its figures along


# ---- rules and dashboard -----------------------------------------------------------------------


def test_promtool_finds_no_fault_in_the_rules_and_they_do_what_they_say() -> None:
    folder = PACKAGING / "prometheus"
    promtool("check", "config", folder / "scrape.yml")
    promtool("check", "rules", folder / "qmond.rules.yml")
    promtool("test", "rules", folder / "qmond.rules.test.yml")


def test_every_alert_says_how_bad_it_is_and_what_to_do_and_is_tested() -> None:
    (group,) = yaml.safe_load((PACKAGING / "prometheus/qmond.rules.yml").read_text())["groups"]
    tests = yaml.safe_load((PACKAGING / "prometheus/qmond.rules.test.yml").read_text())["tests"]
    rows = [row for test in tests for row in test["alert_rule_test"]]
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        fired = [row for row in rows if row["alertname"] == rule["alert"] and "exp_alerts" in row]
        silent = [row for row in rows if row["alertname"] == rule["alert"] and len(row) == 2]
        assert fired, rule["alert"]
        assert silent, rule["alert"]


def test_the_dashboard_takes_its_data_from_where_it_is_told() -> None:
    board = json.loads((PACKAGING / "grafana/qmond.json").read_text())
    assert [row["name"] for row in board["templating"]["list"]] == ["datasource", "instance"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
