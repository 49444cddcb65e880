"""The answers to what the front may ask; each is made when it is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson

from qmond.config.keys import Config
from qmond.daemon.accounts import Rates
from qmond.daemon.channel import Answers, Reply
from qmond.daemon.metrics import Metrics
from qmond.daemon.status import Status
from qmond.daemon.watch import Watch
from qmond.errors import ConfigError, LogError, RequestError
from qmond.lines.encoder import Encoder, adoption
from qmond.lines.masking import Allowance
from qmond.log.keeper import LogKeeper
from qmond.server.operations import log_level
from qmond.server.protocol import ANSWER_MAX
from qmond.server.shares import Bucket

__all__ = ["answers", "config_of"]

_CHUNK: Final = 64
"""Processes that are described before events have a turn."""
_RELOADS: Final = 0.2
"""A second, in the long run."""
_ROTATIONS: Final = 1 / 600
"""Likewise. Each may cost the oldest file: a front that was taken over could end the past."""

Arguments = Mapping[str, Any]


def answers(
    *,
    config: Callable[[], Config],
    reload: Callable[[], list[str]],
    status: Status,
    metrics: Metrics,
    watch: Watch,
    rates: Rates,
    encoder: Encoder,
    log: LogKeeper,
) -> Answers:
    """Return by its name each question that the core answers, as a function of its arguments."""
    listing = _Listing(watch, rates, encoder)

    def tree(args: Arguments) -> Reply:
        """Answer with a process' descendants, and at which line that is so."""
        pid = args.get("pid")
        if type(pid) is not int:
            raise RequestError("BadArgument", "pid: a process ID is needed")
        members = watch.processes.descendants(pid)
        return _whole({"seq": encoder.seq, "end": [*log.end], "members": members})

    def rotated(_: Arguments) -> dict[str, Any]:
        try:
            path = log.rotate()
        except LogError as error:
            raise RequestError("Failed", str(error)) from error
        return {"path": str(path) if path else None}

    def reloaded(_: Arguments) -> dict[str, Any]:
        try:
            return {"restart": reload()}
        except ConfigError as error:
            raise RequestError("BadConfig", str(error)) from error

    return {
        "status": lambda _: _whole(status.describe()),
        "metrics": lambda _: _whole(metrics.text().decode()),
        "ps": lambda _: listing.answer(),
        "tree": tree,
        "config": lambda args: _whole(config_of(config(), whole=args.get("all") is True)),
        "log-level": lambda args: _whole(log_level(args)),
        "rotate": _limited(rotated, Bucket(_ROTATIONS, 30)),
        "reload": _limited(reloaded, Bucket(_RELOADS, 10)),
    }


class _Listing:
    """The answer to `ps`: the processes under watch, as many as an answer has room for."""

    def __init__(self, watch: Watch, rates: Rates, encoder: Encoder) -> None:
        self._watch = watch
        self._rates = rates
        self._masking = encoder.masking
        self._allowance = Allowance()

    async def answer(self) -> Reply:
        self._allowance.renew()
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        rows: list[bytes] = []
        size = 2
        for at, process in enumerate(self._watch.processes):
            row = adoption(process, self._masking.argv(process, self._allowance)) | {
                "age": round(now - process.start / 1e9, 2),
                "comm": process.comm,
                "allocations": self._watch.allocations.state(process.pid),
                "events": self._rates.total(process.pid),
                "rate": self._rates.rate(process.pid),
            }
            rows.append(orjson.dumps(row))
            size += len(rows[-1]) + 1
            if size > ANSWER_MAX:
                return b"[%b]" % b",".join(rows[:-1]), True
            if at % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)  # events come first
        return b"[%b]" % b",".join(rows), False


def _limited(
    control: Callable[[Arguments], dict[str, Any]], bucket: Bucket
) -> Callable[[Arguments], Reply]:
    """Return the same control, which refuses what no person asks so often."""

    def answer(args: Arguments) -> Reply:
        if bucket.room < 1:
            raise RequestError("Failed", f"too often: try again in {bucket.wait(1):.0f} s")
        bucket.spend(1)
        return _whole(control(args))

    return answer


def _whole(value: object) -> Reply:
    return orjson.dumps(value), False


def config_of(config: Config, *, whole: bool) -> dict[str, Any]:
    """Return the answer to `config`: what is in force, as etc/qmon.yaml has it; sizes in bytes.

    `redact` is for root alone: it would show others what to look for.
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
