"""Obtain the kernel side, loaded anew or left by the last daemon, and resume the log.

The descriptors of probes, maps and checkpoint are in systemd's store, so they outlive a daemon that
ends abruptly. The next daemon takes them if they are what it would load itself, and continues.

`python -m qmond.daemon.startup RING` prints the signature of what an installation would load, for
a daemon that is about to be followed by another.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qmond.bpf.load import Options, fingerprint, names
from qmond.bpf.probes import Probes
from qmond.daemon.checkpoint import LAYOUT, Checkpoint, State
from qmond.log.writer import EventLog
from qmond.namespaces import is_hosts
from qmond.systemd import fdstore as store

__all__ = [
    "Kernel",
    "boot_id",
    "have_precedence",
    "obtain",
    "restrictions",
    "resume_log",
    "signature",
]

_log = logging.getLogger(__name__)

_CHECKPOINT: Final = "checkpoint"
_NICE: Final = -10
"""The records of many guests come through one thread, which must have its share of the CPUs."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel side; `state` is where another daemon left it, or None where it is new."""

    probes: Probes
    checkpoint: Checkpoint
    state: State | None
    signature: str
    kept: tuple[str, ...]
    """What of it is in the descriptor store, by the names there."""

    def detach(self) -> None:
        """Take it off the host, and out of the store."""
        store.forget(self.kept)
        self.probes.detach()

    def close(self, *, lend: bool = False) -> None:
        """Detach it, in the store too; or `lend` what is there to the next daemon."""
        if not lend:
            store.forget(self.kept)
        self.probes.close()
        self.checkpoint.close()


def signature(options: Options) -> str:
    """Return what tells whether one daemon can go on where another ended."""
    return fingerprint(options, LAYOUT)


def _taken(options: Options, descriptors: dict[str, int], kept: tuple[str, ...]) -> Kernel | None:
    """Return the kernel side that another daemon left; None where nobody knows its state."""
    try:
        checkpoint = Checkpoint(descriptors.pop(_CHECKPOINT))
        probes = Probes(descriptors, options)
        state = checkpoint.state(probes.ring.consumed[0])
    except (OSError, ValueError) as error:
        _log.warning("what another daemon left is damaged: %s", error)
        return None
    if state is None:
        return None
    _log.info("going on with the probes of the daemon before, at seq %d", state.seq)
    return Kernel(probes, checkpoint, state, signature(options), kept)


def obtain(options: Options, found: Mapping[str, int]) -> Kernel:
    """Take the kernel side from what was `found` in the store where it fits, otherwise load one.

    Raises LoadError.
    """
    ours = signature(options)
    named = {name.removeprefix(f"{ours}.").replace(".", ":", 1): fd for name, fd in found.items()}
    if set(named) == names() | {_CHECKPOINT} and (kernel := _taken(options, named, tuple(found))):
        return kernel
    if found:
        _log.warning("what is in the descriptor store does not fit this qmond: loading anew")
        store.forget(found)
        for fd in found.values():
            os.close(fd)
    probes, checkpoint = Probes.load(options), Checkpoint()
    everything = probes.descriptors | {_CHECKPOINT: checkpoint.fd}
    kept = {f"{ours}.{name.replace(':', '.', 1)}": fd for name, fd in everything.items()}
    return Kernel(probes, checkpoint, None, ours, tuple(kept) if store.keep(kept) else ())


def restrictions(root: Path) -> list[str]:
    """Return what the daemon cannot do where `root` is not the host's procfs."""
    if is_hosts(root):
        return []
    return [
        (
            f"the kernel reports the host's process IDs, but {root} has those of another pid "
            "namespace: what already runs is not adopted, and allocations are not counted; "
            "bind the host's /proc somewhere, and set `procfs` to it"
        )
    ]


def resume_log(log: EventLog, state: State | None) -> int:
    """Make the log ready to go on where another daemon ended; returns the next line's number.

    What that daemon had not committed is cut off, and is written again. Numbers begin anew when
    the host has booted, and a file with them: no file has lines of two boots.
    """
    if state is not None and (gone := log.cut(state.end)):
        _log.info("%d bytes of the log's end are written again", gone)
    log.recover()
    seq = state.seq if state else _next_seq(log)
    if seq == 1 and "seq" in log.last_line():
        log.rotate()
    return seq


def _next_seq(log: EventLog) -> int:
    """Return the number after the log's last line, where that was written since the host booted."""
    last = log.last_line()
    seq, moment = last.get("seq"), last.get("time")
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    boot = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(booted))
    return seq + 1 if isinstance(seq, int) and isinstance(moment, str) and moment >= boot else 1


def have_precedence() -> None:
    """Give this thread, and on Linux it alone, precedence over the guests for CPU time."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except OSError as error:
        _log.warning("no precedence over the guests for CPU time: %s", error.strerror)


def boot_id() -> str:
    """Return which boot of the host this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


if __name__ == "__main__":
    sys.stdout.write(signature(Options(ring=int(sys.argv[1]))) + "\n")
