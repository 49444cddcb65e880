"""What the package, its units and examples do in the less usual cases, on a booted systemd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from machine import Machine

pytest_plugins = ("machine",)
pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
EXAMPLES = "/usr/share/doc/qmond/examples"
DROP_INS = "/etc/systemd/system/qmond.service.d"


@pytest.fixture(scope="module", autouse=True)
def installed(machine: Machine, package: Path) -> Iterator[None]:
    """Have the package installed, and no policy but the tests' own."""
    shutil.copy(package, machine.root / "root/qmond.deb")
    for name in ("usr/sbin/policy-rc.d", "etc/qmon.yaml"):
        (machine.root / name).unlink(missing_ok=True)
    machine.run("dpkg -i /root/qmond.deb 2>&1", timeout=120)
    yield
    machine.run("systemctl stop qmond.socket qmond.service; dpkg --purge qmond 2>&1", timeout=60)


@pytest.fixture(autouse=True)
def started(machine: Machine) -> Iterator[None]:
    """Begin with the shipped configuration and a daemon that runs; leave no drop-in."""
    configure(machine)
    machine.run(f"mkdir -p {DROP_INS}; systemctl enable --now qmond.service 2>&1")
    yield
    machine.run(f"rm -rf {DROP_INS} /etc/systemd/system/qmond.socket.d; systemctl daemon-reload")
    machine.run("systemctl stop qmond.socket qmond.service 2>&1; systemctl reset-failed")


def configure(machine: Machine, name: str = "qmon.yaml", **changes: str) -> None:
    text = (ROOT / "etc/qmon.yaml").read_text()
    for old, new in {"procfs: /proc": "procfs: /run/host/proc", **changes}.items():
        assert old in text
        text = text.replace(old, new)
    (machine.root / "etc" / name).write_text(text)


def use(machine: Machine, example: str) -> None:
    machine.run(f"cp {EXAMPLES}/{example} {DROP_INS}; systemctl daemon-reload")
    assert machine.run("systemd-analyze verify qmond.service 2>&1") == ""


def pid(machine: Machine) -> str:
    return machine.show("MainPID")[0]


def test_a_package_that_is_deconfigured_for_a_while_keeps_its_service(machine: Machine) -> None:
    before = pid(machine)
    machine.run("/var/lib/dpkg/info/qmond.prerm deconfigure in-favour other 1 2>&1")
    assert (pid(machine), machine.run("systemctl is-enabled qmond")) == (before, "enabled\n")


def test_an_upgrade_asks_the_policy(machine: Machine) -> None:
    before, policy = pid(machine), machine.root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    machine.run("dpkg -i /root/qmond.deb 2>&1", timeout=120)
    assert pid(machine) == before
    policy.unlink()
    handed_over = machine.journal().count("handed over")
    machine.run("dpkg -i /root/qmond.deb 2>&1", timeout=120)
    assert pid(machine) != before
    assert machine.journal().count("handed over") == handed_over + 1


def test_an_upgrade_looks_at_the_configuration_that_the_daemon_has(machine: Machine) -> None:
    configure(machine, "other.yaml")
    line = r"[Service]\nEnvironment=QMOND_CONFIG=/etc/other.yaml\n"
    machine.run(f"printf '{line}' >{DROP_INS}/config.conf")
    machine.run("systemctl daemon-reload; systemctl restart qmond")
    configure(machine, **{"  bytes: 256": "  bytes: many"})
    before = pid(machine)
    machine.run("dpkg -i /root/qmond.deb 2>&1", timeout=120)
    assert pid(machine) != before
    configure(machine, "other.yaml", **{"  bytes: 256": "  bytes: many"})
    before = pid(machine)
    assert "/etc/other.yaml:" in machine.run("dpkg -i /root/qmond.deb 2>&1", timeout=120)
    assert "/etc/other.yaml:" in machine.run("qmonctl doctor", check=False)
    assert pid(machine) == before


def test_the_socket_units_socket_outlives_a_stop(machine: Machine) -> None:
    machine.run("systemctl stop qmond; systemctl start qmond.socket; systemctl start qmond")
    machine.run("systemctl stop qmond 2>&1; systemctl start qmond; qmonctl status")
    machine.run("systemctl stop qmond 2>&1; qmonctl status")


def test_another_group(machine: Machine) -> None:
    configure(machine, **{"  group: qmon\n": "  group: staff\n"})
    use(machine, "another-group.conf")
    machine.run("systemctl restart qmond")
    assert machine.run("stat -c '%U:%G %a' /run/qmond/qmond.sock") == "qmond:staff 660\n"


def test_another_socket(machine: Machine) -> None:
    path = "/run/qmond-socket/qmond.sock"
    configure(machine, **{"path: /run/qmond/qmond.sock": f"path: {path}"})
    use(machine, "another-socket.conf")
    machine.run(f"systemctl restart qmond; systemctl reload qmond; qmonctl --socket {path} status")
    assert machine.run("stat -c '%G %a' /run/qmond-socket") == "qmon-payload 755\n"


def test_another_disk(machine: Machine) -> None:
    configure(machine, **{"  dir: /var/log/qmond": "  dir: /srv/qmond"})
    use(machine, "another-disk.conf")
    machine.run("install -d -m 0750 -o qmond -g qmon-payload /srv/qmond; systemctl restart qmond")
    events = "/srv/qmond/events.jsonl"
    assert machine.run(f"stat -c '%U:%G %a' {events}") == "qmond:qmon-payload 640\n"


def test_metrics_in_node_exporters_directory(machine: Machine) -> None:
    folder = "/var/lib/prometheus/node-exporter"
    configure(machine, **{"textfile: null": f"textfile: {folder}/qmond.prom"})
    use(machine, "metrics-in-a-file.conf")
    machine.run(f"install -d -o qmond {folder}; systemctl restart qmond")
    machine.until(lambda: "qmond.prom" in machine.run(f"ls {folder}"))
    machine.run("systemctl stop qmond")
    assert machine.run(f"ls -A {folder}") == ""


def test_waits_for_what_may_pass_by_itself(machine: Machine) -> None:
    """Another daemon at its socket, played by flock(1): a failure, but none to be hasty about."""
    machine.run("systemctl stop qmond")
    with machine.started("runuser -u qmond -- flock /run/qmond/qmond.sock.lock cat") as other:
        machine.until(lambda: machine.run("lslocks --noheadings -o PATH").count("/qmond.sock.lock"))
        machine.run("systemctl start --no-block qmond")
        machine.until(lambda: machine.show("NRestarts") == ["1"])
        said = machine.run("journalctl -b -u qmond -o json --no-pager -n 20").splitlines()
        entries = [json.loads(line) for line in said]
        other.end()
    machine.until(lambda: machine.show("SubState") == ["running"])
    moments = {entry["MESSAGE"]: int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6 for entry in entries}
    told = next(at for message, at in moments.items() if "another qmond has this" in message)
    ended = next(at for message, at in moments.items() if "Main process exited" in message)
    assert ended - told > 9


def test_logrotate_has_nothing_to_tell_a_daemon_that_is_stopped(machine: Machine) -> None:
    machine.run("systemctl stop qmond")
    file = machine.run(f"cat {EXAMPLES}/logrotate/qmond")
    machine.run(file.partition("postrotate")[2].partition("endscript")[0])


def test_a_log_that_is_a_mount_point_does_not_hinder_a_purge(machine: Machine) -> None:
    machine.run("systemctl stop qmond; mount -t tmpfs none /var/log/qmond; systemctl start qmond")
    machine.run("dpkg --purge qmond 2>&1", timeout=60)
    assert machine.run("ls -A /var/log/qmond") == ""
    assert "qmond" not in machine.run("ls /etc/systemd/system/*.wants")
    machine.run("umount /var/log/qmond; dpkg -i /root/qmond.deb 2>&1", timeout=120)


def test_the_client_is_there_for_the_systems_python(machine: Machine, package: Path) -> None:
    """With the daemon's package, which has its own, and without it."""
    (built,) = package.parent.glob("python3-qmond_*.deb")
    shutil.copy(built, machine.root / "root")
    machine.run("dpkg -i /root/python3-qmond_*.deb 2>&1")
    where = "import qmond.client as c; print(c.__file__)"
    of_the_system, of_the_daemon = "/usr/lib/python3/dist-packages/qmond/", "/usr/lib/qmond/venv/"
    assert machine.run(f"/usr/bin/python3 -c '{where}'").startswith(of_the_system)
    of = machine.run(f"/usr/lib/qmond/venv/bin/python3 -I -c '{where}'")
    assert of.startswith(of_the_daemon)
    machine.run("systemctl restart qmond; qmonctl status; qmond --check")
    ask = 'from qmond.client import *; print(Client().status()["version"])'
    assert machine.run(f"/usr/bin/python3 -c '{ask}'") == machine.run("qmond --version | cut -c7-")
    machine.run("dpkg --purge qmond 2>&1", timeout=60)
    assert "is the daemon running?" in machine.run(f"/usr/bin/python3 -c '{ask}'", check=False)
    machine.run("dpkg --purge python3-qmond 2>&1; dpkg -i /root/qmond.deb 2>&1", timeout=120)
    assert machine.run("ls -d /usr/lib/python3/dist-packages/qmond", check=False).count("No such")
