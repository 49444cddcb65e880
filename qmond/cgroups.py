"""The paths of cgroup v2 IDs, each the inode of a directory, and what container a path tells."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final

from qmond import procfs

__all__ = ["CgroupPaths", "container_of", "parse_mount"]

_CONTAINER: Final = re.compile(
    r"/(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?(?=/|$)"  # docker, podman, containerd, CRI-O, k8s
    r"|/(?:lxc(?:\.payload)?[./])([^/]+)"  # LXC, Incus
    r"|/(?:systemd-nspawn@|machine-)([^/]+?)\.(?:service|scope)(?=/|$)"  # systemd-nspawn, machined
)


def container_of(path: str | None) -> str | None:
    """Return the container's ID or name that a cgroup's path tells; the innermost one."""
    found = _CONTAINER.findall(path or "")
    return next(filter(None, found[-1])) if found else None


def parse_mount(data: bytes) -> str | None:
    """Return where the cgroup v2 hierarchy is mounted, from /proc/PID/mountinfo."""
    for line in data.decode(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return before.split()[4]
    return None


class CgroupPaths:
    """Finds a cgroup's path below the hierarchy's root, looking at most once a second."""

    def __init__(self, root: Path = procfs.PROC) -> None:
        mount = parse_mount((root / "self" / "mountinfo").read_bytes())
        self._mount = mount
        self._paths: dict[int, str] = {}
        self._looked = float("-inf")

    def __call__(self, cgroup: int) -> str | None:
        """Return the path of an ID; None where the cgroup or the whole hierarchy is not there."""
        if cgroup not in self._paths and self._mount and time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            self._paths = {
                os.stat(directory).st_ino: directory.removeprefix(self._mount) or "/"
                for directory, _, _ in os.walk(self._mount)
                if os.path.isdir(directory)
            }
        return self._paths.get(cgroup)
