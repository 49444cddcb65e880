"""What an administrator does with the package and the service, on a booted systemd.

The tests build on one another, in this order: one machine, from installing to purging.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from machine import Command, Machine

pytest_plugins = ("machine",)
pytestmark = pytest.mark.root

COMPILER = "aarch64-linux-gnu-gcc"
ROOT = Path(__file__).parents[2]
GUESTS = ROOT / "tests/root/guests"
WATCHDOG = 8
"""Seconds; shorter than the unit's own."""
SOURCES = (
    "script", "packaging", "docs", "qmond", "etc", "pyproject.toml", "setup.py", "README.md",
    "CHANGELOG.md", "LICENSE",
)  # fmt: skip
"""What script/install reads."""
OPTIONAL = {"qmond.ctl.formats.sql"}
"""Modules that need what only some installations have."""
IMPORT_ALL = """
import importlib, pkgutil, qmond
for module in pkgutil.walk_packages(qmond.__path__, "qmond."):
    try:
        module.name.endswith("__main__") or importlib.import_module(module.name)
    except Exception as error:
        print(module.name, repr(error))
"""

ALL = "cat /var/log/qmond/events-*.jsonl /var/log/qmond/events.jsonl 2>/dev/null"


def count(machine: Machine, pattern: str = "") -> int:
    """Return how many lines the log has."""
    return int(machine.run(f"{ALL} | grep -c '{pattern}' || :"))


def lines(machine: Machine, after: int = 0) -> list[dict[str, Any]]:
    """Return events of the log, the oldest first; one that is torn fails the test."""
    said = machine.run(f"{ALL} | tail -n +{after + 1}")
    return [json.loads(line) for line in said.splitlines()]


def status(machine: Machine) -> dict[str, Any]:
    answered: dict[str, Any] = json.loads(machine.run("qmonctl status --json"))
    return answered


def configure(machine: Machine, **changes: str) -> None:
    """Write the shipped configuration with other values; the host's /proc is bound in there."""
    text = (ROOT / "etc/qmon.yaml").read_text()
    for old, new in {"procfs: /proc": "procfs: /run/host/proc", **changes}.items():
        assert old in text
        text = text.replace(old, new)
    (machine.root / "etc/qmon.yaml").write_text(text)


def state(machine: Machine) -> list[str]:
    return machine.show("ActiveState", "SubState")


@contextmanager
def counting(machine: Machine, pace: str = "100 10") -> Iterator[Command]:
    """Have a guest write numbers until it is told to end: some, and a pause in milliseconds."""
    with machine.started(f"qemu-aarch64-static /root/count {pace}") as guest:
        yield guest


def written(guest: Command) -> list[str]:
    """End a guest that writes numbers; returns all the lines that it wrote."""
    assert guest.end() == 0
    (last,) = guest.said()
    return [f"{number:08}\n" for number in range(int(last) + 1)]


def of(guest: Command, event: str) -> str:
    """Return how the lines look that tell this of a guest."""
    return f'"event":"{event}","pid":{guest.pid},'


def writes(events: list[dict[str, Any]], guest: Command) -> list[dict[str, Any]]:
    return [e for e in events if e.get("event") == "WRITE" and e["pid"] == guest.pid]


def run_guest(machine: Machine, some: int = 1) -> Command:
    """Run a guest that writes some numbers and one more; its end is in the log then."""
    with counting(machine, f"{some} 1000000") as guest:
        written(guest)
        machine.until(lambda: count(machine, of(guest, "EXIT")))
    return guest


def tailing(machine: Machine) -> bool:
    return any(client["tailing"] for client in status(machine)["clients"])


@contextmanager
def following(machine: Machine, options: str) -> Iterator[Command]:
    """Run `qmonctl tail` meanwhile; the daemon knows of it, and of no other one."""
    machine.until(lambda: not tailing(machine))
    with machine.started(f"qmonctl tail --json {options}") as tail:
        machine.until(lambda: tailing(machine))
        yield tail


def test_the_packages_have_no_errors(package: Path, tmp_path: Path) -> None:
    assert package.stat().st_size < 10 << 20, "DuckDB has a package of its own"
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", *package.parent.glob("*.deb")],
        capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # it leaves files there
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "E: " not in done.stdout


def test_installs_and_starts_nothing(machine: Machine, package: Path) -> None:
    shutil.copy(package, machine.root / "root/qmond.deb")
    machine.run("apt-get install -qq -y --no-install-recommends /root/qmond.deb 2>&1", timeout=120)
    assert state(machine) == ["inactive", "dead"]
    assert machine.run("systemctl is-enabled qmond.service || :").strip() == "disabled"
    assert machine.run("getent group qmon qmon-payload").count("\n") == 2
    assert machine.run("stat -c '%U:%G %a' /var/log/qmond") == "qmond:qmon-payload 750\n"
    assert machine.run("systemd-analyze verify qmond.service qmond.socket 2>&1") == ""
    assert (
        machine.run("qmond --check --config /etc/qmon.yaml") == "/etc/qmon.yaml: no fault found\n"
    )
    for name in ("storm", "count"):
        subprocess.run(
            [COMPILER, "-static", "-O1", "-o", machine.root / "root" / name, GUESTS / f"{name}.c"],
            check=True,
        )


def test_needs_only_what_the_package_names(machine: Machine) -> None:
    """Hide what else of Python this machine has: a server has less."""
    (machine.root / "root/import-all").write_text(IMPORT_ALL)
    named = machine.run("dpkg-query -W -f '${Depends}' qmond | grep -o 'python3-[a-z0-9]*'")
    assert "python3-bpfcc" in named.split()
    said = machine.run(f"""unshare --mount sh -ec '
        mount -t tmpfs only /mnt
        dpkg -L {" ".join(named.split())} | grep dist-packages/ |
            tar -C / --no-recursion -cT - 2>/dev/null | tar -C /mnt -x
        mount --bind /mnt/usr/lib/python3/dist-packages /usr/lib/python3/dist-packages
        qmond --check
        /usr/lib/qmond/venv/bin/python3 -I /root/import-all' """)
    first, *failed = said.splitlines()
    assert first.endswith("no fault found")
    assert {line.split()[0] for line in failed} == OPTIONAL, failed


def test_the_journal_explains_messages(machine: Machine) -> None:
    assert "qmond has started" in machine.run("journalctl --list-catalog")


def test_starts_and_shows_a_guest(machine: Machine) -> None:
    configure(machine)
    machine.run("systemctl enable --now qmond")
    assert state(machine) == ["active", "running"]
    with following(machine, "--event WRITE") as tail:
        guest = run_guest(machine, 5)
        machine.until(lambda: sum(of(guest, "WRITE") in line for line in tail.said()) >= 6)
        told = writes([json.loads(line) for line in tail.said()], guest)
    assert [event["buf"] for event in told] == [f"{number:08}\n" for number in range(6)]
    assert machine.run("qmonctl tail --last 5 --no-follow --event WRITE | wc -l") == "5\n"
    machine.until(lambda: re.search(r"watching \d+ processes", machine.show("StatusText")[0]))
    assert machine.show("NFileDescriptorStore")[0] != "0"
    assert machine.run("stat -c '%U:%G %a' /run/qmond/qmond.sock") == "qmond:qmon 660\n"
    log = "/var/log/qmond/events.jsonl"
    assert machine.run(f"stat -c '%U:%G %a' {log}") == "qmond:qmon-payload 640\n"


def test_counts_allocations_under_the_sandbox(machine: Machine) -> None:
    def counted() -> int:
        assert machine.run("qemu-aarch64 /root/count 20000") == ""
        return count(machine, '"evt":"ALLOC_SUM"')

    machine.until(counted)


def test_has_no_capability_in_force(machine: Machine) -> None:
    (pid,) = machine.show("MainPID")
    assert int(machine.run(f"grep CapEff /proc/{pid}/status").split()[1], 16) == 0


def test_the_front_is_a_user_with_nothing_and_is_replaced_when_it_hangs(machine: Machine) -> None:
    front = status(machine)["front"]
    said = machine.run(f"cat /proc/{front['pid']}/status")
    told = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    user, group = machine.run("id -u qmond-front; getent group qmon-payload").split()
    assert set(told["Uid"].split()) == {user}
    assert set(told["Gid"].split()) == {group.split(":")[2]}
    assert told["Groups"].split() == []
    assert {int(told[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")} == {0}
    machine.run(f"kill -STOP {front['pid']}")
    journal = "journalctl -u qmond --since=-2min"
    machine.until(lambda: "it said nothing for 15 s" in machine.run(journal))
    machine.until(lambda: status(machine)["front"]["starts"] > front["starts"])
    assert machine.run(f"ls /proc/{front['pid']} 2>&1 || :").count("No such file") == 1


def test_is_exposed_as_little_as_can_be(machine: Machine) -> None:
    said = machine.run("systemd-analyze security qmond.service --no-pager")
    found = re.search(r"Overall exposure level for qmond.service: ([\d.]+)", said)
    assert found
    assert float(found[1]) <= 1.8, said


def test_reloads_a_good_configuration_and_refuses_a_bad_one(machine: Machine) -> None:
    configure(machine, **{"  bytes: 256": "  bytes: 7"})
    machine.run("systemctl reload qmond")
    guest = run_guest(machine)
    assert {e["buf"] for e in writes(lines(machine), guest)} == {"0000000"}
    configure(machine, **{"  bytes: 256": "  bytes: many"})
    said = machine.run("systemctl reload qmond 2>&1; echo $?")
    assert said.endswith("1\n"), "it failed"
    assert "capture.bytes: is 'many'" in machine.journal()
    assert state(machine) == ["active", "running"]
    assert json.loads(machine.run("qmonctl config"))["capture"]["bytes"] == 7
    configure(machine)
    machine.run("systemctl reload qmond")


def survive(machine: Machine, blow: Callable[[], object], pace: str = "100 10") -> None:
    """Let a blow fall while a guest writes: nothing may be missing, for log and client."""
    began, resumed = count(machine), '"resumed":true'
    starts = count(machine, resumed)
    follow = "--follow=retry --event WRITE"
    with following(machine, follow) as tail, counting(machine, pace) as guest:
        write = of(guest, "WRITE")
        machine.until(lambda: count(machine, write) > 1000)
        assert guest.runs
        blow()
        assert guest.runs
        machine.until(lambda: count(machine, resumed) > starts)
        so_far = count(machine, write)
        machine.until(lambda: count(machine, write) > so_far)
        numbers = written(guest)
        machine.until(lambda: count(machine, of(guest, "EXIT")))
        machine.until(lambda: sum(write in line for line in tail.said()) >= len(numbers))
        told = writes([json.loads(line) for line in tail.said()], guest)
    events = lines(machine, began)
    mine = writes(events, guest)
    assert [e["buf"] for e in mine] == numbers
    assert told == mine, "each once"
    assert [e["seq"] for e in events] == list(range(began + 1, began + 1 + len(events)))
    assert status(machine)["counters"]["WRITE"]["lost"] == 0
    (start,) = (e for e in events if e.get("event") == "START")
    assert start["resumed"]
    assert mine[0]["ts"] < start["ts"] < mine[-1]["ts"]


def test_a_restart_misses_nothing(machine: Machine) -> None:
    survive(machine, lambda: machine.run("systemctl restart qmond"))
    assert "handed over" in machine.journal()


def test_a_kill_misses_nothing(machine: Machine) -> None:
    survive(machine, lambda: machine.run("systemctl kill --signal=KILL --kill-whom=main qmond"))


def test_an_upgrade_misses_nothing(machine: Machine, package: Path) -> None:
    newer = machine.root / "root/newer"
    subprocess.run(["dpkg-deb", "--raw-extract", package, newer], check=True)
    control = newer / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+1", control.read_text()))
    subprocess.run(["dpkg-deb", "--build", newer, newer.with_suffix(".deb")], check=True)
    shutil.rmtree(newer)
    survive(machine, lambda: machine.run("dpkg -i /root/newer.deb 2>&1", timeout=120))
    assert machine.run("dpkg-query -W -f '${Version}' qmond").endswith("+1")


def test_an_upgrade_leaves_a_daemon_alone_that_could_not_start_again(machine: Machine) -> None:
    (pid,) = machine.show("MainPID")
    configure(machine, **{"  bytes: 256": "  bytes: many"})
    said = machine.run("dpkg -i /root/newer.deb 2>&1", timeout=120)
    assert "capture.bytes: is 'many'" in said
    assert "systemctl restart qmond" in said
    assert (machine.show("MainPID"), state(machine)) == ([pid], ["active", "running"])
    configure(machine)


def test_a_hung_daemon_is_started_again(machine: Machine) -> None:
    """It misses nothing of a guest that writes so little meanwhile that the ring holds it."""
    drop_in = machine.root / "etc/systemd/system/qmond.service.d/watchdog.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nWatchdogSec={WATCHDOG}\n")
    machine.run("systemctl daemon-reload; systemctl restart qmond")
    hung = 0.0

    def hang() -> None:
        nonlocal hung
        (pid,) = machine.show("MainPID")
        machine.run(f"kill -STOP {pid}")
        hung = time.monotonic()
        machine.until(lambda: machine.show("MainPID")[0] not in {pid, "0"}, 3 * WATCHDOG)

    survive(machine, hang, pace="5 10")
    assert "Watchdog timeout" in machine.journal()
    names = ("ActiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    noticed, again = (int(moment) / 1e6 for moment in machine.show(*names))
    assert noticed - hung < WATCHDOG + 5
    assert again - noticed < 10
    shutil.rmtree(drop_in.parent)
    machine.run("systemctl daemon-reload; systemctl restart qmond")


def test_logrotate_may_rotate_instead(machine: Machine) -> None:
    """By Debian's logrotate with the shipped file, in the middle of a storm and after it."""
    shutil.copy(ROOT / ".venv/logrotate/usr/sbin/logrotate", machine.root / "root")
    configure(machine, **{"    size: 64M": "    size: 64G"})
    machine.run("systemctl reload qmond")
    rotate = (
        "/root/logrotate --force --state /root/logrotate.state "
        "/usr/share/doc/qmond/examples/logrotate/qmond 2>&1"
    )
    with counting(machine) as guest:
        machine.until(lambda: count(machine, of(guest, "WRITE")) > 1000)
        assert machine.run(rotate) == ""
        machine.until(lambda: count(machine, of(guest, "WRITE")))
        numbers = written(guest)
        machine.until(lambda: count(machine, of(guest, "EXIT")))
    assert machine.run(rotate) == ""
    last = run_guest(machine)
    log = "/var/log/qmond/events.jsonl"
    said = machine.run(f"zcat {log}.2.gz; cat {log}.1 {log}; rm {log}.2.gz {log}.1")
    events = [json.loads(line) for line in said.splitlines()]
    seqs = [event["seq"] for event in events]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "each once, in order"
    assert [event["buf"] for event in writes(events, guest)] == numbers
    assert [event["buf"] for event in writes(events, last)] == numbers[:2]
    assert machine.run(f"stat -c '%U:%G %a' {log}") == "qmond:qmon-payload 640\n"
    configure(machine)
    machine.run("systemctl reload qmond")


def test_stops_with_the_books_closed(machine: Machine) -> None:
    machine.run("systemctl stop qmond")
    assert state(machine) == ["inactive", "dead"]
    end = lines(machine)[-1]
    assert end["event"] == "END"
    for name, row in end["totals"].items():
        assert row["seen"] == row["written"] + row["lost"] + row["suppressed"], name
    assert machine.show("NFileDescriptorStore") == ["0"]
    assert machine.run("ls /run/qmond 2>/dev/null || :") == ""


def test_a_bad_configuration_at_start_is_told_and_not_tried_again(machine: Machine) -> None:
    configure(machine, **{"  bytes: 256": "  bytes: plenty"})
    machine.run("systemctl start qmond 2>&1", check=False)
    assert machine.show("Result", "ExecMainStatus", "NRestarts") == ["exit-code", "78", "0"]
    assert "capture.bytes: is 'plenty'" in machine.journal()
    configure(machine)
    machine.run("systemctl reset-failed qmond")


def test_a_client_may_come_before_the_daemon(machine: Machine) -> None:
    machine.run("systemctl start qmond.socket")
    assert status(machine)["uptime"] >= 0
    machine.until(lambda: state(machine)[0] == "active")  # the client's connection started it
    machine.run("systemctl stop qmond.socket qmond.service")


def test_a_socket_outlives_a_stop_of_the_service(machine: Machine) -> None:
    machine.run("systemctl enable --now qmond.socket 2>&1")
    machine.run("systemctl start qmond.service")
    assert status(machine)["uptime"] >= 0
    machine.run("systemctl stop qmond.service 2>&1")
    assert machine.run("systemctl is-active qmond.socket") == "active\n"
    machine.run("systemctl start qmond.service")
    assert status(machine)["uptime"] >= 0
    machine.run("systemctl stop qmond.service 2>&1")
    assert status(machine)["uptime"] >= 0, "the client's connection started it"
    machine.run("systemctl disable --now qmond.socket 2>&1")
    machine.run("systemctl stop qmond.service")


def test_a_purge_leaves_nothing(machine: Machine) -> None:
    machine.run("systemctl start qmond")
    machine.run("apt-get purge -qq -y qmond 2>&1", timeout=60)
    assert state(machine)[0] == "inactive"
    assert left(machine) == []
    assert "qmond" not in machine.run("journalctl --list-catalog")


def left(machine: Machine) -> list[str]:
    """Return the files that have something of qmond in their names."""
    return machine.run(
        "find /etc /usr /var /run -path /run/host -prune -o -path /var/lib/systemd -prune -o "
        "-path /var/cache -prune -o -name '*qmon*' -print"
    ).splitlines()


def test_make_install_serves_without_a_package(machine: Machine) -> None:
    source = machine.root / "root/source"
    source.mkdir()
    for name in SOURCES:
        subprocess.run(["cp", "-r", ROOT / name, source / name], check=True)
    (machine.root / "etc/qmon.yaml").unlink(missing_ok=True)
    entered = machine.enter[: machine.enter.index("env")]  # pip may need what is in the environment
    install = "cd /root/source && PREFIX=/usr/local script/install"
    done = subprocess.run(
        [*entered, "sh", "-c", install], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert state(machine) == ["inactive", "dead"]
    configure(machine)
    machine.run("systemctl enable --now qmond")
    assert "/usr/local/bin/qmond" in machine.show("ExecStart")[0]
    assert status(machine)["uptime"] >= 0
    machine.run("systemctl reload qmond")
    said = machine.run("qmonctl query 'SELECT 1 AS one'", check=False)
    (command,) = re.findall("sudo .* ensurepip && sudo .* install duckdb", said)
    subprocess.run(
        [*entered, "sh", "-c", command.replace("sudo ", "")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert machine.run("qmonctl query --csv 'SELECT 1 AS one'").split() == ["one", "1"]
    machine.run("cd /root/source && PREFIX=/usr/local script/install --remove 2>&1")
    assert state(machine) == ["inactive", "dead"]
    assert left(machine) == ["/etc/qmon.yaml", "/var/log/qmond"]
    shutil.rmtree(source)


@pytest.fixture(scope="module", autouse=True)
def machine_is_tidy(machine: Machine) -> None:
    """Have nothing of an installation before."""
    assert "qmond" not in machine.run("dpkg-query -W -f '${Package}\\n'").split()
