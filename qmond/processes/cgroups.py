"""Find the container in the path of a cgroup."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["container_of"]

_CONTAINER: Final = re.compile(
    r"/(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?(?=/|$)"  # docker, podman, containerd, CRI-O, k8s
    r"|/(?:lxc(?:\.payload)?[./])([^/]+)"  # LXC, Incus
    r"|/(?:systemd-nspawn@|machine-)([^/]+?)\.(?:service|scope)(?=/|$)"  # systemd-nspawn, machined
)


def container_of(path: str | None) -> str | None:
    """Return the ID or name of the innermost container in a cgroup's path, or None."""
    found = _CONTAINER.findall(path or "")
    return next(filter(None, found[-1])) if found else None
