"""Print the state of the daemon, and the counters of every event.

For each type: seen in the kernel = written + lost + suppressed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from qmond.ctl.connection import connect
from qmond.ctl.show.text import print_json

__all__ = ["add_arguments", "render", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="the daemon's answer, unchanged")


def run(options: argparse.Namespace) -> int:
    """Print the status."""
    with connect(options.socket) as client:
        status = client.status()
    if options.json:
        print_json(status)
    else:
        sys.stdout.write(render(status))
    return 0


def render(status: dict[str, Any]) -> str:
    """Return a status as text."""
    ring, log = status["ring"], status["log"]
    lines = [
        f"qmond {status['version']}, up {status['uptime']:.0f} s, boot {status['boot_id']}",
        f"probes   {' '.join(status['probes'])}",
        f"ring     {ring['used']} of {ring['size']} bytes in use",
        f"tracked  {status['tracked']} processes; allocations: {_counts(status['allocations'])}",
        f"log      {log['path']}, {log['bytes']} bytes, {log['rotated']} rotated files"
        + (", CANNOT BE WRITTEN" if log["failing"] else ""),
    ]
    if left := status.get("left_behind"):
        lines += [f"lookers  {left} left behind, because they could not be killed"]
    if (starts := status.get("front", {}).get("starts", 1)) > 1:
        lines += [f"front    started {starts} times: see the journal"]
    lines += [f"limit    {limit}" for limit in status["limits"]]
    lines += [f"advice   {advice}" for advice in status["advice"]]
    lines += [
        f"client   pid {client['pid']}, uid {client['uid']}, "
        f"sent {client['sent']}, dropped {client['dropped']}"
        for client in status["clients"]
    ]
    lines += ["", f"{'event':16}{'seen':>14}{'written':>14}{'lost':>14}{'suppressed':>14}"]
    lines += [
        f"{name:16}{row['seen']:14}{row['written']:14}{row['lost']:14}{row['suppressed']:14}"
        for name, row in status["counters"].items()
    ]
    return "\n".join(lines) + "\n"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
