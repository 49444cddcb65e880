"""Whether a tail waits for a guest that does not run yet: its filters may be mistyped."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from qmond.client import Choice, Client
from qmond.errors import RequestError
from qmond.events.guestglob import GuestGlob

__all__ = ["remark"]


def remark(client: Client, choice: Choice) -> str:
    """Return a sentence where no running guest is one of the Choice's, otherwise nothing."""
    asked = _asked(choice)
    if not asked:
        return ""
    with contextlib.suppress(RequestError):  # the tail does not depend on it
        processes = client.ps()
        if not client.truncated and not any(_matches(process, choice) for process in processes):
            return f"no running guest matches {' '.join(asked)}; waiting for one"
    return ""


def _asked(choice: Choice) -> Sequence[str]:
    asked = [f"--pid {pid}" for pid in choice.get("pids") or ()]
    for option in ("tree", "guest"):
        value = choice.get(option)
        asked += [f"--{option} {value}"] if value else []
    arch = choice.get("arch")
    return [*asked, *([f"--arch {','.join(arch)}"] if arch else [])]


def _matches(process: dict[str, Any], choice: Choice) -> bool:
    pids, tree, arch = choice.get("pids"), choice.get("tree"), choice.get("arch")
    guest = choice.get("guest")
    ancestors = {process["pid"], *(parent["pid"] for parent in process["parents"])}
    return (
        (not pids or process["pid"] in pids)
        and (not tree or tree in ancestors)
        and (not arch or process["arch"] in arch)
        and (not guest or GuestGlob(guest)(process))
    )
