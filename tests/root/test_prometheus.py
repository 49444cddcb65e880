"""A real Prometheus asks a real daemon that watches a real guest."""

import contextlib
import grp
import http.client
import itertools
import json
import re
import socket
import stat
import subprocess
import sys
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, Qmond, wait_until
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.root
StartQmond = Callable[..., Qmond]
Build = Callable[[str, str], Path]

ROOT = Path(__file__).parents[2]
PROMETHEUS = Path(sys.executable).parent.parent / "prometheus/usr/bin/prometheus"
NUMBERS = 20_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def scraped(path: Path) -> str:
    with contextlib.closing(UnixConnection(path)) as connection:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()


def written(text: str) -> dict[str, float]:
    return {
        sample.labels["event"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "qmond_events_written_total" and sample.value
    }


class Prometheus:
    """A running server with the shipped rules."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str, **query: str) -> Any:
        url = f"/api/v1/{path}?{urllib.parse.urlencode(query)}"
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", url)
            found = json.load(connection.getresponse())
        assert found["status"] == "success", found
        return found["data"]

    def value(self, query: str) -> float | None:
        """Return what a query that has one result answers, or None where it has none yet."""
        rows = self.get("query", query=query)["result"]
        return float(rows[0]["value"][1]) if rows else None


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    """Return what starts a server that asks one address each second, as scrape.yml has it."""
    with contextlib.ExitStack() as stack:

        def start(target: str) -> Prometheus:
            shipped = ROOT / "packaging/prometheus"
            config = (shipped / "scrape.yml").read_text()
            config = config.replace("127.0.0.1:9839", target).replace("15s", "1s")
            config = config.replace("- qmond.rules", f"- {shipped}/qmond.rules")
            file = tmp_path / "prometheus.yml"
            file.write_text("global: {evaluation_interval: 1s}\n" + config)
            port = free_port()
            said = stack.enter_context((tmp_path / "prometheus.said").open("wb"))
            process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={file}",
                    f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=said,
                stderr=said,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            server = Prometheus(port)

            def answers() -> bool:
                assert process.poll() is None, (tmp_path / "prometheus.said").read_text()
                with contextlib.suppress(OSError, json.JSONDecodeError):  # not yet, or not ready
                    return bool(server.get("targets"))
                return False

            wait_until(answers)
            return server

        yield start


def test_a_query_of_prometheus_answers_what_the_log_has(
    qmond: StartQmond, build: Build, prometheus: Callable[[str], Prometheus]
) -> None:
    target = f"127.0.0.1:{free_port()}"
    daemon = qmond(metrics={"listen": target})
    server = prometheus(target)
    wait_until(lambda: server.value('up{job="qmond"}') == 1)
    assert server.value('qmond_events_written_total{event="WRITE"}') == 0
    subprocess.run(["qemu-aarch64-static", build("count", "aarch64"), str(NUMBERS)], check=True)
    wait_until(lambda: any(event.get("event") == "EXIT" for event in daemon.events()))

    def is_the_logs() -> bool:
        rows = server.get("query", query="qmond_events_written_total > 0")["result"]
        told = {row["metric"]["event"]: int(row["value"][1]) for row in rows}
        return told == Counter(e.get("event") or e["evt"] for e in daemon.events())

    wait_until(is_the_logs)
    assert server.value('qmond_events_written_total{event="WRITE"}') == NUMBERS
    assert server.value('sum(qmond_events_lost_total{job="qmond"})') == 0
    wait_until(lambda: (server.value("qmond_log_bytes_total") or 0) > NUMBERS * 100)

    def rules() -> list[Any]:
        found: list[Any] = server.get("rules")["groups"][0]["rules"]
        return found

    wait_until(lambda: {rule["health"] for rule in rules()} == {"ok"})
    assert {rule["state"] for rule in rules()} == {"inactive"}


def named(text: str) -> set[str]:
    return {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }


def test_what_rules_and_dashboard_use_is_in_a_real_scrape(
    qmond: StartQmond, tmp_path: Path
) -> None:
    path, file = tmp_path / "metrics.sock", tmp_path / "qmond.prom"
    qmond(metrics={"listen": f"unix:{path}", "textfile": str(file)})
    wait_until(lambda: path.is_socket() and file.exists())
    names, in_file = named(scraped(path)), named(file.read_text())
    board = (ROOT / "packaging/grafana/qmond.json").read_text()
    rules = (ROOT / "packaging/prometheus/qmond.rules.yml").read_text()
    used = set(re.findall(r"\b(?:qmond|process)_[a-z_]+\b", board + rules))
    assert len(used) > 15
    assert used <= names | in_file
    assert {name for name in used if name.startswith("qmond_process_")} <= in_file
    told = {name for name in names if name.startswith(("qmond_", "process_"))}
    assert told <= set(re.findall(r"\b(?:qmond|process)_[a-z_]+\b", board)), "a panel for each"
    page = (ROOT / "docs/monitoring.md").read_text()
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_unix_socket_is_for_root_and_the_group(qmond: StartQmond, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    daemon = qmond(metrics={"listen": f"unix:{path}"}, socket={"group": "games"})
    wait_until(path.is_socket)
    assert stat.S_IMODE(path.stat().st_mode) in {0o600, 0o660}, "it is never for others"
    wait_until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o660)
    assert (path.stat().st_uid, path.stat().st_gid) == (0, grp.getgrnam("games").gr_gid)
    assert written(scraped(path))["START"] == 1
    daemon.stop()
    assert not path.exists()


def test_the_text_file_says_what_the_log_has(
    qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    path = tmp_path / "qmond.prom"
    daemon = qmond(metrics={"textfile": str(path), "interval": "1s"})
    subprocess.run(["qemu-aarch64-static", build("count", "aarch64"), "100"], check=True)
    wait_until(lambda: path.exists() and written(path.read_text()).get("WRITE") == 100)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    daemon.stop()
    assert [file.name for file in tmp_path.iterdir() if "prom" in file.name] == []


def test_a_storm_of_scrapes_costs_no_event(qmond: StartQmond, build: Build) -> None:
    """Every other one asks for half, and then says nothing."""
    target = ("127.0.0.1", free_port())
    daemon = qmond(metrics={"listen": "{}:{}".format(*target)})
    wait_until(lambda: reaches(target))
    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(
            subprocess.Popen(["qemu-aarch64-static", build("count", "aarch64"), str(NUMBERS)])
        )
        requests = itertools.cycle([b"GET /metrics HTTP/1.1\r\n\r\n", b"GET /metrics HTTP/1.1\r\n"])
        while guest.poll() is None:
            with contextlib.suppress(OSError):
                connection = stack.enter_context(socket.create_connection(target, 1))
                connection.sendall(next(requests))
    events = daemon.stop()
    assert Counter(event.get("event") for event in events)["WRITE"] == NUMBERS
    assert events[-1]["totals"]["WRITE"]["lost"] == 0


def reaches(target: tuple[str, int]) -> bool:
    try:
        socket.create_connection(target, 1).close()
    except OSError:
        return False
    return True
