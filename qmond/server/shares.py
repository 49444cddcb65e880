"""Each user's share of something, in token buckets: who has used up a share waits for more."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["Bucket", "Shares"]

_KEPT: Final = 1024
"""Buckets that are remembered."""


class Bucket:
    """A token bucket: it gains `rate` a second, up to `most`."""

    def __init__(
        self, rate: float, most: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._most = self._room = most
        self._clock = clock
        self._updated = clock()

    @property
    def room(self) -> float:
        """How much is in it; less than nothing where more was spent."""
        now = self._clock()
        self._room = min(self._most, self._room + (now - self._updated) * self._rate)
        self._updated = now
        return self._room

    @property
    def is_full(self) -> bool:
        """Whether nothing was spent lately."""
        return self.room >= self._most

    def spend(self, amount: float) -> None:
        """Take an amount out, even where there is less."""
        self._room = self.room - amount

    def wait(self, amount: float = 0) -> float:
        """Return the seconds until an amount is in it."""
        return max(0.0, (amount - self.room) / self._rate)


class Shares:
    """A bucket for each user, or for each user and kind."""

    def __init__(
        self, rate: float, most: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make: Callable[[], Bucket] = lambda: Bucket(rate, most, clock)
        self._buckets: dict[Hashable, Bucket] = {}

    def __getitem__(self, key: Hashable) -> Bucket:
        found = self._buckets.get(key)
        if found is None:
            if len(self._buckets) >= _KEPT:
                left = [(of, one) for of, one in self._buckets.items() if not one.is_full]
                self._buckets = dict(left)
            found = self._buckets[key] = self._make()
        return found
