"""What the daemon says of itself: the answers to what can be asked beside events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from qmond import __version__
from qmond.bpf.probes import Probes
from qmond.config.keys import Config
from qmond.daemon.accounts import Accounts, Rates
from qmond.daemon.allocations import Allocations
from qmond.daemon.channel import Answers, Reply
from qmond.daemon.fronting import Fronting
from qmond.errors import ConfigError, LogError, RequestError
from qmond.lines.encoder import Encoder, adoption
from qmond.lines.masking import Allowance
from qmond.lines.redact import Redactor
from qmond.log.keeper import LogKeeper
from qmond.log.writer import EventLog
from qmond.looker.asking import Lookers
from qmond.processes.table import ProcessTable
from qmond.server.protocol import ANSWER_MAX
from qmond.server.shares import Bucket
from qmond.server.verbs import log_level

__all__ = ["Reports", "config_of"]

_CHUNK: Final = 64
"""Processes that are told of before events have a turn."""
_RELOADS: Final = 0.2
"""A second, in the long run."""
_ROTATIONS: Final = 1 / 600
"""Likewise. Each may cost the oldest file: a front that was taken over could end the past."""

Control = Callable[[Mapping[str, Any]], dict[str, Any]]


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
    front: Fronting


class Reports:
    """The answers, from the parts as they are when they are asked for."""

    def __init__(self, daemon: Running) -> None:
        self._of = daemon
        self._reloads, self._rotations = Bucket(_RELOADS, 10), Bucket(_ROTATIONS, 30)
        self._allowance = Allowance()
        self._last = time.monotonic(), 0

    def answers(self) -> Answers:
        """Return what the front can ask."""
        return {
            "status": lambda _: _whole(self.status()),
            "ps": lambda _: self.ps(),
            "tree": self._tree,
            "config": lambda args: _whole(
                config_of(self._of.config, whole=args.get("all") is True)
            ),
            "log-level": lambda args: _whole(log_level(args)),
            "rotate": _held_back(self._rotate, self._rotations),
            "reload": _held_back(self._reload, self._reloads),
        }

    def _tree(self, args: Mapping[str, Any]) -> Reply:
        """Return a process' descendants, and at which line that is so."""
        pid = args.get("pid")
        if type(pid) is not int:
            raise RequestError("BadArgument", "pid: a process ID is needed")
        members = self._of.processes.descendants(pid)
        return _whole({"seq": self._of.encoder.seq, "end": [*self._of.log.end], "members": members})

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
            "front": of.front.describe(),
            "log": of.log.describe() | {"failing": of.keeper.failing},
            "counters": self.totals(),
        }

    async def ps(self) -> Reply:
        """Return the answer to `ps`, the processes under watch: as many as there is room for."""
        of, now = self._of, time.clock_gettime(time.CLOCK_BOOTTIME)
        self._allowance.renew()
        parts: list[bytes] = []
        size = 2
        for at, process in enumerate(of.processes):
            row = adoption(process, of.encoder.masking.argv(process, self._allowance)) | {
                "age": round(now - process.start / 1e9, 2),
                "comm": process.comm,
                "allocations": of.allocations.state(process.pid),
                "events": of.rates.total(process.pid),
                "rate": of.rates.rate(process.pid),
            }
            parts.append(orjson.dumps(row))
            size += len(parts[-1]) + 1
            if size > ANSWER_MAX:
                return b"[%b]" % b",".join(parts[:-1]), True
            if at % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)  # events come first
        return b"[%b]" % b",".join(parts), False

    def _rotate(self, _args: Mapping[str, Any]) -> dict[str, Any]:
        try:
            path = self._of.log.rotate()
        except LogError as error:
            raise RequestError("Failed", str(error)) from error
        return {"path": str(path) if path else None}


def _held_back(control: Control, bucket: Bucket) -> Callable[[Mapping[str, Any]], Reply]:
    """Return the same, which refuses what no person asks so often."""

    def answer(args: Mapping[str, Any]) -> Reply:
        if bucket.room < 1:
            raise RequestError("Failed", f"too often: try again in {bucket.wait(1):.0f} s")
        bucket.spend(1)
        return _whole(control(args))

    return answer


def _whole(value: object) -> Reply:
    return orjson.dumps(value), False


def config_of(config: Config, *, whole: bool) -> dict[str, Any]:
    """Return the answer to `config`: what is in force, as etc/qmon.yaml has it; sizes in bytes.

    What is taken out of lines is told to root alone: it would show what to look for.
    """
    found: dict[str, Any] = _plain(asdict(config) | {"limits": dict(config.limits)})
    if not whole:
        del found["redact"]
    return found


def _plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
