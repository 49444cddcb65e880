"""What the daemon says of itself: the answer to `status`, and systemd's line about the service."""

from __future__ import annotations

import time
from typing import Any

from qmond import __version__
from qmond.bpf.probes import Probes
from qmond.daemon.accounts import Accounts
from qmond.daemon.fronting import Fronting
from qmond.daemon.watch import Watch
from qmond.lines.encoder import Encoder
from qmond.log.keeper import LogKeeper

__all__ = ["Status"]


class Status:
    """Describes the parts of one daemon as they are when somebody asks."""

    def __init__(
        self,
        *,
        boot_id: str,
        probes: Probes,
        encoder: Encoder,
        accounts: Accounts,
        watch: Watch,
        log: LogKeeper,
        front: Fronting,
    ) -> None:
        self._boot_id = boot_id
        self._probes = probes
        self._encoder = encoder
        self._accounts = accounts
        self._watch = watch
        self._log = log
        self._front = front
        self._started = time.monotonic()
        self._last = self._started, 0

    def describe(self) -> dict[str, Any]:
        """Return the core's part of the answer to `status`; the front adds its clients."""
        ring = self._probes.ring
        return {
            "version": __version__,
            "uptime": round(self.uptime, 3),
            "boot_id": self._boot_id,
            "probes": self._probes.attached,
            "ring": {"size": ring.size, "used": ring.used},
            "limits": self._watch.restrictions,
            "advice": self._accounts.advice(ring.size),
            "tracked": len(self._watch.processes),
            "allocations": self._watch.allocations.states(),
            "left_behind": self._watch.left_behind,
            "front": self._front.describe(),
            "log": self._log.describe(),
            "counters": self._accounts.totals(),
        }

    def summary(self) -> str:
        """Return in a few words how much there is to do, since the last call."""
        now, seq = time.monotonic(), self._encoder.seq
        rate = (seq - self._last[1]) / max(now - self._last[0], 0.001)
        self._last = now, seq
        lost = sum(row["lost"] for row in self._accounts.totals().values())
        return f"watching {len(self._watch.processes)} processes, {rate:.0f} events/s, {lost} lost"

    @property
    def uptime(self) -> float:
        """Seconds since the daemon was made."""
        return time.monotonic() - self._started
