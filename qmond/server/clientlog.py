"""The journal's messages about clients: who connected, and who was cut off, and why.

A client can connect as often as it likes, so messages have a rate. What exceeds it is counted, and
told once a minute.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from qmond.errors import RequestError
from qmond.server.access import Peer
from qmond.server.shares import Bucket, Shares
from qmond.systemd.messages import MessageId, about

__all__ = ["ClientLog"]

_log = logging.getLogger(__name__)

_OF_A_KIND: Final = (1 / 60, 5)
"""Messages a second of one user and kind, and how many at once."""
_OF_OTHERS: Final = (1, 60)
"""Likewise, of all users but root together."""
_CONNECTED: Final = "connected"
_SUMMARY: Final = 60
"""Seconds between two summaries of what was not logged."""


class ClientLog:
    """Logs what happens to clients; those of one user cannot keep another's out of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of_a_kind = Shares(*_OF_A_KIND, clock)
        self._of_others = Bucket(*_OF_OTHERS, clock)
        self._left_out: Counter[str] = Counter()
        self._told = clock()

    def connected(self, peer: Peer) -> None:
        """Log that a client has connected."""
        if self._has_room(peer.uid, _CONNECTED):
            _log.info("client connected: %s", peer)

    def cut_off(
        self, peer: Peer, reason: RequestError, dropped: int, fault: Exception | None = None
    ) -> None:
        """Log why a client is cut off; `fault` is what failed inside of this process."""
        if self._has_room(peer.uid, reason.kind):
            fields = {"client_pid": peer.pid, "client_uid": peer.uid, "dropped": dropped}
            _log.warning(
                "client is cut off: %s: %s: %s",
                peer,
                reason.kind,
                reason,
                exc_info=fault,
                extra=about(MessageId.CLIENT_CUT_OFF, **fields, reason=reason.kind),
            )

    def gone(self, peer: Peer, error: Exception | None) -> None:
        """Log, for who looks closely, that a client has gone."""
        _log.debug("client gone: %s: %s", peer, error or "closed")

    def check(self) -> None:
        """Tell once a minute what was not logged; called about once a second."""
        if self._left_out and self._clock() - self._told > _SUMMARY:
            self.tell()

    def tell(self) -> None:
        """Tell how many messages were not logged."""
        if self._left_out:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._left_out.items()))
            level = logging.INFO if self._left_out.keys() == {_CONNECTED} else logging.WARNING
            _log.log(level, "messages about clients that were too many to log: %s", kinds)
        self._left_out.clear()
        self._told = self._clock()

    def _has_room(self, uid: int, kind: str) -> bool:
        """Whether one more message may be logged; otherwise it is counted."""
        buckets = [self._of_a_kind[uid, kind]] + [self._of_others] * (uid != 0)
        if any(bucket.room < 1 for bucket in buckets):
            self._left_out[kind] += 1
            return False
        for bucket in buckets:
            bucket.spend(1)
        return True
