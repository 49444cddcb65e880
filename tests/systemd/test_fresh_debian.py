"""From nothing to the first event: Debian 12 as debootstrap makes it, and the package."""

from __future__ import annotations

import json
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
