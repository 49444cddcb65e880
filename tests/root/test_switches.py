"""Context switches: whose they are, and that a filter by process or tree finds them all."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from conftest import Build, StartQmond
from harness import waiting
from lives import at_rest


def threads_of(pid: int) -> set[int]:
    return {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()}


def test_a_process_has_its_switches_whoever_had_the_cpu_before(
    qmond: StartQmond, build: Build
) -> None:
    """Two guests on one CPU, whose threads also take turns with those of other programs."""
    daemon = qmond()
    pulse = ["taskset", "-c", "0", "qemu-aarch64-static", str(build("scenes", "aarch64")), "pulse"]
    with waiting(*pulse, "4") as guest, waiting(*pulse, "2") as other:
        (before, began), _ = at_rest(guest.pid), at_rest(other.pid)
        guest.begin(b"ppp")
        other.do(b"ppp")
        after, ended = at_rest(guest.pid)
        threads = {pid: threads_of(pid) for pid in (guest.pid, other.pid)}
    for pid in threads:
        daemon.of(pid)
    truth = {tid: after[tid] - count for tid, count in before.items()}
    assert sum(truth.values()) > 400

    def found(*options: str) -> list[dict[str, Any]]:
        tail = ("tail", "--no-follow", "--json", "--event", "SCHED_SWITCH", *options)
        lines = map(json.loads, daemon.ctl(*tail).stdout.splitlines())
        return [line for line in lines if began < line["ts"] < ended]

    log = [event for event in daemon.events() if event.get("event") == "SCHED_SWITCH"]
    own = [
        e for e in log if guest.pid in (e["pid"], e.get("next_tgid")) and began < e["ts"] < ended
    ]
    for option in ("--pid", "--tree"):
        lines = found("--last", "100000", option, str(guest.pid))
        assert lines == own
        leaving = Counter(line["prev_pid"] for line in lines)
        assert {tid: leaving[tid] for tid in truth} == truth
    where = found("--last", "100000", "--where", f"pid == {guest.pid}")
    assert where == [line for line in own if line["pid"] == guest.pid]

    assert any("next_tgid" in line for line in own)
    for line in log:
        if not began < line["ts"] < ended or line["pid"] not in threads:
            continue
        assert line["guest"] == str(build("scenes", "aarch64"))
        if "next_tgid" in line:
            assert line["prev_pid"] in threads[line["pid"]]
            assert line["next_pid"] in threads[line["next_tgid"]]
        else:
            assert threads[line["pid"]] & {line["prev_pid"], line["next_pid"]}


def test_every_switch_is_a_watched_processs(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()
    with waiting("qemu-aarch64-static", build("waits", "aarch64")) as guest:
        guest.do(b"ttfef")
    daemon.of(guest.pid)
    events = daemon.stop()
    watched = {e["pid"] for e in events if e.get("event") == "TRACK_ADOPT"}
    watched |= {e["child"] for e in events if e.get("event") == "TRACK_FORK"}
    switches = [e for e in events if e.get("event") == "SCHED_SWITCH"]
    assert any(e["pid"] == guest.pid for e in switches)
    assert {e["pid"] for e in switches} | {e.get("next_tgid") for e in switches} <= {*watched, None}
    assert os.getpid() not in watched
