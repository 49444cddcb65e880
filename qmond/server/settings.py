"""What the core tells the front: the bounds of its clients, and which lines there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = ["FrontSettings"]


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """What holds until the next reload.

    `group` names who may ask, `groups` has its number and that of who may see content, where there
    are any. `configured` has the events that there are, as bits; `numbered` says whether lines have
    a number and a time; `epoch_us` is the monotonic time that `ts` counts from.
    """

    client_buffer: int = 4 << 20
    client_timeout: float = 30.0
    max_clients: int = 64
    group: str = ""
    groups: tuple[int | None, int | None] = (None, None)
    configured: int = 0
    numbered: bool = True
    epoch_us: int = 0
    log: str = ""
    """The log's directory, as messages have it."""
    version: str = ""
    boot_id: str = ""

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """Take what `told` gave."""
        first, second = told["groups"]
        return cls(**told | {"groups": (first, second)})

    def told(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return asdict(self)
