"""What the core tells the front: bounds for its clients, and which events are configured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

__all__ = ["FrontSettings"]


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """The settings that hold until the next reload.

    Members of `group` may ask. `groups` has its number, and that of the group that may see content;
    None where there is no such group. `configured` has the events that there are, as bits.
    `numbered` says whether lines have a number and a time. `ts` counts from `epoch_us`, which is a
    monotonic time.
    """

    client_buffer: int = 4 << 20
    client_timeout: float = 30.0
    max_clients: int = 64
    group: str = ""
    groups: tuple[int | None, int | None] = (None, None)
    configured: int = 0
    numbered: bool = True
    epoch_us: int = 0
    version: str = ""
    boot_id: str = ""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the settings of `to_json`; keys of another version are ignored."""
        first, second = values["groups"]
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**known | {"groups": (first, second)})

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return asdict(self)
