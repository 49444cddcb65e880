"""Prometheus' text format: it makes a scrape's answer from families of samples.

The client library does this too, but brings TLS, an HTTP server and 6 MB of memory that stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["CONTENT_TYPE", "Family", "Samples", "render"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


Samples = dict[tuple[str, ...], float]
"""The samples' values, by the values of their labels."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, kind (`counter` or `gauge`), help text, label names and samples."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    samples: Samples = field(default_factory=dict)

    @classmethod
    def single(cls, name: str, kind: str, about: str, value: float) -> Family:
        """Return a metric without labels."""
        return cls(name, kind, about, (), {(): value})


def render(families: Iterable[Family]) -> bytes:
    """Return the families as one text."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {family.help.translate(_HELP_ESCAPES)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for values, number in family.samples.items():
            pairs = ",".join(
                f'{name}="{value.translate(_ESCAPES)}"'
                for name, value in zip(family.labels, values, strict=True)
            )
            lines.append(
                f"{family.name}{{{pairs}}} {number!r}" if pairs else f"{family.name} {number!r}"
            )
    return "".join(f"{line}\n" for line in lines).encode()
