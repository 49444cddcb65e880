"""Moves each batch of records from the ring through the encoder to the log, then to other sinks.

One of the sinks is the front, which serves the clients.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from qmond.bpf.ring import RingBuffer
from qmond.clock import WallClock
from qmond.daemon.accounts import Accounts
from qmond.daemon.checkpoint import Checkpoint, State
from qmond.events.table import NUMBER
from qmond.lines.encoder import Encoder
from qmond.log.files import Position
from qmond.log.keeper import LogKeeper
from qmond.processes.table import ProcessTable
from qmond.systemd.messages import MessageId, about

__all__ = ["REST", "Pipeline", "Sink"]

_log = logging.getLogger(__name__)

REST: Final = 0.005
"""Seconds between two drains, so that batches grow under load."""
_BUSY: Final = 1 << 18
"""Bytes in the ring from which on the next drain does not wait for that."""

Sink = Callable[[Encoder, Position, Position], None]
"""Takes a batch that is in the log: the batch, and the log's end before and after it."""


class Pipeline:
    """Moves batches of records, and the events that the daemon itself makes.

    `sinks` get each batch after the log has it. `drained` is called after each batch from the ring.
    """

    def __init__(
        self,
        *,
        ring: RingBuffer,
        encoder: Encoder,
        processes: ProcessTable,
        accounts: Accounts,
        log: LogKeeper,
        checkpoint: Checkpoint,
        clock: WallClock,
        sinks: Sequence[Sink],
        drained: Callable[[], None],
    ) -> None:
        self.wanted = 0
        """The mask of the events that the configuration wants."""
        self.clock = clock
        self._ring = ring
        self._encoder = encoder
        self._processes = processes
        self._accounts = accounts
        self._log = log
        self._checkpoint = checkpoint
        self._sinks = sinks
        self._drained = drained
        self._consumed_before = -1
        self._last_record = 0.0
        encoder.follow(clock.anchor)
        self._commit(log.end)

    async def drain_forever(self) -> None:
        """Drain whenever the kernel side says that there is something, until cancelled."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        while True:
            loop.add_reader(self._ring.fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self._ring.fd)
            ready.clear()
            while self.drain():
                await asyncio.sleep(0 if self._ring.used > _BUSY else REST)

    def drain(self) -> bool:
        """Move one batch from the ring to the log and the sinks; says whether there was any."""
        if not self._ring.used:
            return False
        self.follow_clock()
        self._encoder.begin()
        moved = self._encoder.drain(self._ring, self._processes)
        self._accounts.not_logged.update(self._encoder.take_failed())
        self._last_record = time.monotonic()
        self._deliver()
        self._drained()
        return moved

    def tell(self, name: str, values: dict[str, Any]) -> None:
        """Send an event that the daemon itself makes, where it is wanted."""
        if not self.wanted >> NUMBER[name] & 1:
            return
        self.follow_clock()
        self._accounts.made[name] += 1
        self._encoder.begin()
        self._encoder.tell(name, time.monotonic_ns(), values)
        self._deliver()

    def follow_clock(self) -> None:
        """Give lines the wall clock's time as it goes now, and tell where it was stepped."""
        stepped = self.clock.follow()
        self._encoder.follow(self.clock.anchor)
        if stepped:
            offset = round(self.clock.anchor.offset_ns / 1e9, 6)
            _log.warning(
                "the wall clock was stepped: it is %.6f s from the monotonic",
                offset,
                extra=about(MessageId.CLOCK_STEP, offset=offset),
            )
            self.tell("CLOCK", {"offset": offset})

    def is_stuck(self) -> bool:
        """Whether records wait in the ring, and none was taken since the last call."""
        before, self._consumed_before = self._consumed_before, self._ring.consumed[0]
        return before == self._consumed_before and self._ring.used > 0

    def is_idle(self, seconds: float) -> bool:
        """Whether no process is under watch, and no record came for so long."""
        return not self._processes and time.monotonic() - self._last_record > seconds

    def finish(self, is_complete: Callable[[], bool], patience: float) -> None:
        """Move what waits in the ring now; programs that still run have `patience` seconds.

        Records that come later are of no event: they are for the process table alone.
        """
        deadline = time.monotonic() + patience
        last = self._ring.consumed[0] + self._ring.used
        while self._ring.consumed[0] < last or not is_complete():
            if not self.drain() and time.monotonic() > deadline:
                break

    def _deliver(self) -> None:
        """Write the batch to the log, commit it, and hand it to the sinks."""
        before = self._log.end
        if len(self._encoder) == 0:
            self._commit(before)
            return
        logged = self._log.write(self._encoder.data)
        self._accounts.count(self._encoder.by_event(), logged=logged)
        after = self._log.end
        self._commit(after)
        for take in self._sinks:
            take(self._encoder, before, after)

    def _commit(self, end: Position) -> None:
        """Commit the batch, after which the log ends there: the next daemon continues here."""
        consumed, seq = self._ring.consumed[0], self._encoder.seq
        self._checkpoint.note(State(consumed, seq, end, self._accounts.books()))
        self._ring.commit()
