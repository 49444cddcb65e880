"""What the daemon says of itself: the answers to what can be asked beside events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from qmond import __version__
from qmond.accounting import Accounts, Rates
from qmond.allocations import Allocations
from qmond.bpf.probes import Probes
from qmond.config import Config
from qmond.encode import Encoder, adoption
from qmond.errors import ConfigError, LogError, RequestError
from qmond.eventlog import EventLog
from qmond.history import History
from qmond.logkeeper import LogKeeper
from qmond.looker.asking import Lookers
from qmond.processes import ProcessTable
from qmond.redact import Redactor
from qmond.schema import table
from qmond.verbs import Verb, config_of, forest, log_level

__all__ = ["Reports"]


class Running(Protocol):
    """The parts of a running daemon."""

    config: Config
    reload: Callable[[], list[str]]
    boot_id: str
    started: float
    probes: Probes
    log: EventLog
    keeper: LogKeeper
    encoder: Encoder
    accounts: Accounts
    rates: Rates
    limits: list[str]
    redactor: Redactor
    processes: ProcessTable
    lookers: Lookers
    allocations: Allocations
    hub: Any  # it is made with these answers


class Reports:
    """The answers, from the parts as they are when they are asked for."""

    def __init__(self, daemon: Running) -> None:
        self._of = daemon
        self._oldest: tuple[int, int] | None = None  # by the number of the live file
        self._last = time.monotonic(), 0

    def verbs(self) -> dict[str, Verb]:
        """Return what can be asked."""
        return {
            "status": Verb(lambda _: self.status()),
            "ps": Verb(lambda _: self.ps()),
            "tree": Verb(lambda _: forest(self.ps())),
            "events": Verb(lambda _: table()),
            "config": Verb(lambda _: config_of(self._of.config)),
            "log-level": Verb(log_level, ("level",), control=True),
            "rotate": Verb(self._rotate, control=True),
            "reload": Verb(self._reload, control=True),
        }

    def about(self) -> dict[str, Any]:
        """Return what a greeting says: who this is, what it can do, which lines there are."""
        return {
            "version": __version__,
            "boot_id": self._of.boot_id,
            "capabilities": ["tail", "stop", *self.verbs()],
            "oldest": self._oldest_seq(),
            "newest": self._of.encoder.seq - 1,
        }

    def totals(self) -> dict[str, dict[str, int]]:
        """Return by event what was seen, written, lost and suppressed."""
        return self._of.accounts.totals(self._of.probes.counters())

    def summary(self) -> str:
        """Return in a few words how much there is to do, since the last call."""
        of = self._of
        now, seq = time.monotonic(), of.encoder.seq
        rate = (seq - self._last[1]) / max(now - self._last[0], 0.001)
        self._last = now, seq
        lost = sum(row["lost"] for row in self.totals().values())
        return f"watching {len(of.processes)} processes, {rate:.0f} events/s, {lost} lost"

    def _reload(self, _args: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"restart": self._of.reload()}
        except ConfigError as error:
            raise RequestError("BadConfig", str(error)) from error

    def status(self) -> dict[str, Any]:
        """Return the answer to `status`."""
        of = self._of
        ring = of.probes.ring
        return {
            "version": __version__,
            "uptime": round(time.monotonic() - of.started, 3),
            "boot_id": of.boot_id,
            "probes": of.probes.attached,
            "ring": {"size": ring.size, "used": ring.used},
            "limits": of.limits,
            "advice": of.accounts.advice(of.probes.counters(), ring.size),
            "tracked": len(of.processes),
            "allocations": of.allocations.states(),
            "left_behind": of.lookers.left_behind + of.allocations.left_behind,
            "clients": [client.describe() for client in of.hub.clients],
            "log": of.log.describe() | {"failing": of.keeper.failing},
            "counters": self.totals(),
        }

    def ps(self) -> list[dict[str, Any]]:
        """Return the answer to `ps`: the processes under watch."""
        of, now = self._of, time.clock_gettime(time.CLOCK_BOOTTIME)
        return [
            adoption(process, of.encoder.masking.argv(process))
            | {
                "age": round(now - process.start / 1e9, 2),
                "comm": process.comm,
                "allocations": of.allocations.state(process.pid),
                "events": of.rates.total(process.pid),
                "rate": of.rates.rate(process.pid),
            }
            for process in of.processes
        ]

    def _rotate(self, _: Mapping[str, Any]) -> dict[str, Any]:
        try:
            path = self._of.log.rotate()
        except LogError as error:
            raise RequestError("Failed", str(error)) from error
        return {"path": str(path) if path else None}

    def _oldest_seq(self) -> int | None:
        """Return the number of the oldest line of this boot in the log; files go as others come."""
        log = self._of.log
        if self._oldest is None or self._oldest[0] != log.end.inode:
            try:
                with History(log.path.parent) as history:
                    number = history.oldest()
            except OSError:
                return None
            if number is None:
                return None
            self._oldest = log.end.inode, number
        return self._oldest[1]
