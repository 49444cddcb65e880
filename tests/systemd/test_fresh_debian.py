"""From nothing to the first event: Debian 12 as debootstrap makes it, and the package."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from machine import Machine

pytest_plugins = ("machine",)
pytestmark = pytest.mark.root

BUSYBOX = Path(sys.prefix) / "guests/busybox-arm64"
GUEST = "qemu-aarch64-static /root/busybox sh -c 'while :; do echo tick; sleep 0.1; done'"


def test_apt_and_systemctl_are_all_it_takes(fresh_machine: Machine, package: Path) -> None:
    shutil.copy(package, fresh_machine.root / "root/qmond.deb")
    shutil.copy(BUSYBOX, fresh_machine.root / "root/busybox")
    shutil.copy("/usr/bin/qemu-aarch64-static", fresh_machine.root / "usr/bin")
    assert "python" not in fresh_machine.run("dpkg-query -W"), "nothing that the package needs"
    apt = "apt-get -qq -y -o Acquire::Retries=3"
    fresh_machine.run(f"{apt} update && {apt} install /root/qmond.deb", timeout=600)
    fresh_machine.run("systemctl start qmond")
    with fresh_machine.started(GUEST):
        said = fresh_machine.run("qmonctl tail -c 5")
        wrote = fresh_machine.run("qmonctl tail -c 1 --event WRITE")
    assert len([json.loads(line)["seq"] for line in said.splitlines()]) == 5
    assert json.loads(wrote)["buf"] == "tick\n"


def test_one_command_is_all_that_query_needs(fresh_machine: Machine, package: Path) -> None:
    """The one that it says; afterwards nothing is left of it."""
    (built,) = package.parent.glob("qmond-query_*.deb")
    shutil.copy(built, fresh_machine.root / "root")
    query = 'cd /root && qmonctl query --csv "SELECT count(*) > 0 AS some FROM events"'
    said = fresh_machine.run(f"{query}; echo $?", check=False)
    assert said.startswith("qmonctl: query needs DuckDB")
    assert said.endswith("\n1\n")
    (command,) = re.findall("sudo (apt install [^ ]+)", said)
    fresh_machine.run(f"cd /root && {command} 2>&1", timeout=120)
    assert fresh_machine.run(query) == "some\ntrue\n"
    fresh_machine.run("apt-get -qq -y purge qmond-query")
    assert fresh_machine.run("find /usr -iname '*duckdb*' -o -iname '*qmond-query*'") == ""
