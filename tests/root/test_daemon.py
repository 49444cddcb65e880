"""The daemon as its user meets it: start, watch, ask, stop, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from conftest import Build, StartQmond
from harness import PATIENCE, QMONCTL, Qmond, wait_until, waiting
from stock import Stock

from qmond.bpf import load as module


def bpf_objects(folder: Path) -> list[str]:
    """Return the BPF programs, maps and links that this process has, and a daemon in a folder."""
    names = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        process = link.parents[1]
        try:
            target = os.readlink(link)
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if "bpf" in target and (process.name == str(os.getpid()) or bytes(folder) in environment):
            names.append(f"{link} {target}")
    return names


def test_is_ready_in_two_seconds_and_small_and_has_no_bcc(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(ring={"size": "32M"})  # not in stock: it loads its kernel side itself
    subprocess.run(["qemu-aarch64-static", build("waits", "aarch64")], input=b"tttff", check=True)
    process = Path("/proc") / str(daemon.process.pid)
    resident = re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text())
    assert resident is not None
    assert int(resident[1]) < 40 * 1024
    assert "libbcc" not in (process / "maps").read_text()
    # the target is 2 s on a machine that has time for it; here only that it is no other order
    assert daemon.ready_after < 10


def test_leaves_nothing_behind(qmond: StartQmond, stock: Stock, tmp_path: Path) -> None:
    stock.wait()
    before = bpf_objects(tmp_path)
    daemon = qmond(ring={"size": "32M"})  # not in stock
    assert daemon.socket.exists()
    assert bpf_objects(tmp_path) != before
    events = daemon.stop()
    assert [events[0]["event"], events[-1]["event"]] == ["START", "END"]
    assert bpf_objects(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "log",
        "notify",
        "qmon.yaml",
        "stderr",
    ]
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    assert children == ""


def test_sigint_stops_in_order_too(qmond: StartQmond) -> None:
    daemon = qmond()
    daemon.stopped = True
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(PATIENCE) == 0
    assert daemon.events()[-1]["event"] == "END"


def test_seq_goes_on_after_a_restart(qmond: StartQmond) -> None:
    first = qmond().stop()
    both = qmond().stop()
    assert both[: len(first)] == first
    assert len(both) > len(first)
    assert [event["seq"] for event in both] == list(range(1, len(both) + 1))


def test_a_second_daemon_on_the_same_socket_says_so_and_ends(
    qmond: StartQmond, tmp_path: Path
) -> None:
    daemon = qmond()
    second = subprocess.run(
        [sys.executable, "-m", "qmond", "--config", tmp_path / "qmon.yaml"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert f"{daemon.socket}: another qmond has this socket" in second.stderr
    assert daemon.status()["uptime"] > 0


def test_takes_over_the_socket_of_one_that_was_killed(qmond: StartQmond) -> None:
    first = qmond()
    first.kill()
    assert first.socket.exists()
    assert qmond().status()["uptime"] > 0


def test_adopts_what_already_runs_and_its_children(qmond: StartQmond, build: Build) -> None:
    with waiting("qemu-aarch64-static", build("waits", "aarch64")) as guest:
        daemon = qmond()
        assert daemon.status()["tracked"] == 1
        guest.do(b"f")
    events = daemon.of(guest.pid)
    adopted = events[0]
    assert (adopted["event"], adopted["origin"]) == ("TRACK_ADOPT", "procfs")
    assert adopted["guest"] == str(build("waits", "aarch64"))
    assert adopted["arch"] == "aarch64"
    stat = Path("/proc/self/stat").read_text().split()
    assert adopted["ppid"] == int(stat[0])
    children = [e["child"] for e in daemon.stop() if e.get("event") == "TRACK_FORK"]
    assert [e["reaped_child"] for e in events if e["event"] == "WAIT4_EXITED"] == children


def test_a_guest_of_binfmt_that_already_runs_is_named_rightly(
    qmond: StartQmond, build: Build, binfmt: Callable[[str], None]
) -> None:
    binfmt("aarch64")
    program = build("waits", "aarch64")
    with waiting(program) as guest:
        daemon = qmond()
    adopted = daemon.of(guest.pid)[0]
    assert (adopted["origin"], adopted["arch"]) == ("procfs", "aarch64")
    assert adopted["guest"] == str(program)


def test_no_command_line_is_too_long_to_be_told(qmond: StartQmond, build: Build) -> None:
    """800 KB of what takes six bytes each as JSON, of a guest that runs before the daemon."""
    long = ["\x01" * 100_000] * 8
    with waiting("qemu-aarch64-static", build("waits", "aarch64"), *long) as guest:
        daemon = qmond()
        seen = daemon.of  # once it has ended
    adopted, *_, ended = seen(guest.pid)
    assert (adopted["event"], adopted["origin"], ended["event"]) == (
        "TRACK_ADOPT",
        "procfs",
        "EXIT",
    )
    assert 3000 < sum(map(len, adopted["argv"])) <= 4096
    assert [text.strip("\x01") for text in adopted["argv"][2:]] == [""] * len(adopted["argv"][2:])


def test_no_system_call_of_other_processes_is_told(qmond: StartQmond) -> None:
    daemon = qmond()
    subprocess.run(["/bin/echo", "not a guest"], check=True, capture_output=True)
    assert {e.get("event") for e in daemon.stop()} == {"START", "END"}


def test_a_step_of_the_wall_clock_is_told(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()

    def step(seconds: float) -> None:
        steps = len([e for e in daemon.events() if e.get("event") == "CLOCK"])
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
        wait_until(
            lambda: len([e for e in daemon.events() if e.get("event") == "CLOCK"]) == steps + 1
        )

    step(100)
    try:
        before = time.time()
        subprocess.run(["qemu-aarch64-static", build("waits", "aarch64")], input=b"", check=True)
        after = time.time()
    finally:
        step(-100)
    events = daemon.stop()
    there, back = [e for e in events if e.get("event") == "CLOCK"]
    assert abs(there["offset"] - back["offset"] - 100) < 0.1
    (started,) = [e for e in events if e.get("event") == "TRACK_ADOPT"]
    told = datetime.fromisoformat(started["time"]).timestamp()
    assert before <= told <= after
    assert abs(started["ts"] + there["offset"] - told) < 0.01


def test_in_another_pid_namespace_it_says_what_it_cannot_do(
    qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    with waiting("qemu-aarch64", build("waits", "aarch64")):
        daemon = qmond(under=["unshare", "--pid", "--fork", "--mount-proc"])
        status = daemon.status()
        assert status["tracked"] == 0, "by its procfs it would take another process for the guest"
        (limit,) = status["limits"]
        assert "/proc has those of another pid namespace" in limit
        with waiting("qemu-aarch64", build("waits", "aarch64")) as later:
            pass
    events = daemon.of(later.pid)
    assert (events[0]["event"], events[0]["allocations"]) == ("TRACK_ADOPT", "refused")
    assert limit in (tmp_path / "stderr").read_text()


def test_in_another_pid_namespace_it_works_by_the_hosts_procfs(
    qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    host = tmp_path / "proc"
    host.mkdir()
    mounts = 'mount --bind /proc "$0" && mount -t proc proc /proc && exec "$@"'
    under = ["unshare", "--pid", "--fork", "--mount", "sh", "-c", mounts, str(host)]
    with waiting("qemu-aarch64", build("waits", "aarch64")) as early:
        daemon = qmond(under=under, procfs=str(host))
        inside = ["nsenter", f"--target={daemon.pid}", "--pid", "--mount", "qemu-aarch64"]
        with waiting(*inside, build("waits", "aarch64")) as nsenter:
            (pid,) = Path(f"/proc/{nsenter.pid}/task/{nsenter.pid}/children").read_text().split()

            def listed() -> dict[int, str]:
                processes = json.loads(daemon.ctl("ps", "--json").stdout)
                return {process["pid"]: process["allocations"] for process in processes}

            # the kernel takes IDs of the daemon's namespace: who is not in it has none
            wait_until(lambda: listed() == {early.pid: "refused", int(pid): "counted"})
            assert daemon.status()["limits"] == []


# ---- asking ------------------------------------------------------------------------------------


def tail(daemon: Qmond, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `qmonctl tail`, and wait until the daemon knows of it."""

    def tailing() -> int:
        return sum(client["tailing"] for client in daemon.status()["clients"])

    before = tailing()
    command = [str(QMONCTL), "--socket", str(daemon.socket), "tail", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    wait_until(lambda: tailing() > before)
    return process


def test_tail_by_event_prints_that_event_alone_as_the_log_has_it(
    qmond: StartQmond, build: Build
) -> None:
    daemon = qmond()
    tailing = tail(daemon, "--event", "READ")
    subprocess.run(["qemu-aarch64-static", build("waits", "aarch64")], input=b"f", check=True)
    daemon.stop()
    out, _ = tailing.communicate(timeout=PATIENCE)
    log = (daemon.log / "events.jsonl").read_bytes().splitlines()
    assert out.splitlines() == [line for line in log if json.loads(line).get("event") == "READ"]
    assert out


def test_ps_and_tree_tell_who_runs_what_and_who_started_it(
    qmond: StartQmond, build: Build, binfmt: Callable[[str], None]
) -> None:
    daemon = qmond()
    binfmt("aarch64")
    program = str(build("waits", "aarch64"))
    nested = ["qemu-aarch64-static", program, program]
    with waiting(program) as one, waiting(*nested) as other:
        other.begin(b"x")  # becomes another guest, by binfmt_misc
        other.do(b"-")
        wait_until(lambda: daemon.ctl("ps").stdout.count(program) == 2)
        processes = {p["pid"]: p for p in json.loads(daemon.ctl("ps", "--json").stdout)}
        (root,) = json.loads(daemon.ctl("tree", "--json").stdout)
        table, drawn = daemon.ctl("ps").stdout, daemon.ctl("tree").stdout
    assert {pid: (p["launch"], p["guest"], p["arch"]) for pid, p in processes.items()} == {
        one.pid: ("binfmt", program, "aarch64"),
        other.pid: ("nested", program, "aarch64"),
    }
    stat = Path("/proc/self/stat").read_text().split()
    comm = Path("/proc/self/comm").read_text().strip()
    for process in processes.values():
        assert process["parents"][0] == {"pid": int(stat[0]), "comm": comm}
        assert process["uid"] == 0
        assert process["age"] > 0
        assert process["events"] > 20
    assert [(root["pid"], root["comm"], root["watched"])] == [(int(stat[0]), comm, False)]
    assert {child["pid"] for child in root["children"]} == {one.pid, other.pid}
    assert len(table.splitlines()) == 3
    assert f"{program}  {one.pid}  aarch64  binfmt" in drawn
    assert drawn.startswith(f"[{comm}] {stat[0]}\n├─ ")


def test_tail_by_pid_prints_that_process_alone(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(events=["START", "TRACK_FORK", "READ", "SCHED_SWITCH", "EXIT", "END"])
    with waiting("qemu-aarch64-static", build("waits", "aarch64")) as guest:
        tailing = tail(daemon, "--pid", str(guest.pid))
        subprocess.run(["qemu-aarch64-static", build("waits", "aarch64")], input=b"f", check=True)
        guest.do(b"f")
        threads = {int(task.name) for task in Path(f"/proc/{guest.pid}/task").iterdir()}
    daemon.of(guest.pid)
    daemon.stop()
    lines = [json.loads(line) for line in tailing.communicate(timeout=PATIENCE)[0].splitlines()]
    assert any(event["event"] == "TRACK_FORK" for event in lines)
    for event in lines:
        assert guest.pid in (event.get("pid"), event.get("parent")) or threads & {
            event.get("prev_pid"),
            event.get("next_pid"),
        }


def test_tail_ends_after_a_count_and_when_its_reader_goes(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()
    counted, piped = tail(daemon, "-c", "3"), tail(daemon)
    assert piped.stdout is not None
    piped.stdout.close()
    subprocess.run(["qemu-aarch64-static", build("waits", "aarch64")], input=b"f", check=True)
    out, _ = counted.communicate(timeout=PATIENCE)
    assert (len(out.splitlines()), counted.returncode) == (3, 0)
    subprocess.run(["qemu-aarch64-static", build("waits", "aarch64")], input=b"f", check=True)
    assert piped.wait(PATIENCE) == 0
    wait_until(lambda: len(daemon.status()["clients"]) == 1)  # the one who asks


def test_nc_and_jq_are_client_enough(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(events=["START", "WRITE", "END"])
    command = f"""(echo '{{"op":"tail"}}'; cat) | nc -U {daemon.socket} | jq -c .event"""
    with subprocess.Popen(
        command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as asking:
        wait_until(lambda: any(client["tailing"] for client in daemon.status()["clients"]))
        subprocess.run(["qemu-aarch64-static", build("waits", "aarch64")], input=b"f", check=True)
        daemon.stop()
        assert asking.stdin is not None
        assert asking.stdout is not None
        asking.stdin.close()  # nc stays as long as there is something to send
        out = asking.stdout.read()
    # the greeting, the answer, then events: the guest answers once, its child not at all
    assert out.split() == [b"null", b"null", b'"WRITE"', b'"END"']


def test_a_client_that_does_not_read_delays_nobody_and_is_told(
    qmond: StartQmond, build: Build
) -> None:
    daemon = qmond(socket={"client_buffer": "64K"}, capture={"bytes": 0})
    stuck = tail(daemon)
    assert stuck.stdout is not None
    subprocess.run(
        ["qemu-aarch64-static", build("waits", "aarch64")], input=b"f" * 1500, check=True
    )
    dropped = wait_until(lambda: max(client["dropped"] for client in daemon.status()["clients"]))
    assert dropped > 0
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(stuck.stdout or ()))
    reader.start()
    events = daemon.stop()
    reader.join(PATIENCE)
    stuck.wait(PATIENCE)
    stuck.stdout.close()
    lines = [json.loads(line) for line in got]
    told = sum(line["count"] for line in lines if line.get("event") == "DROPPED")
    log = {event["seq"] for event in events}
    seen = [line["seq"] for line in lines if line.get("event") != "DROPPED"]
    assert seen == sorted(set(seen))
    assert told == len(log) - len(seen) - (min(seen) - 1)


# ---- failures ----------------------------------------------------------------------------------


def test_a_wrong_config_is_told_whole_and_exits_78(tmp_path: Path) -> None:
    file = tmp_path / "qmon.yaml"
    file.write_text("ring:\n  size: 5M\nevents: [READ, REED]\ncolour: blue\n")
    done = subprocess.run(
        [sys.executable, "-m", "qmond", "--config", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [
        f"{file}:{line}" for line in (2, 3, 4)
    ]


def test_a_kernel_side_that_does_not_compile_is_told_readably(tmp_path: Path) -> None:
    # a copy of the whole package, with a fault in its C source
    package = tmp_path / "qmond"
    shutil.copytree(Path(module.__file__).parents[1], package)
    source = package / "bpf" / "qmon.c"
    source.write_text(source.read_text().replace("row->mmaps++;", "row->mmaps++; nonsense;"))
    done = subprocess.run(
        [sys.executable, "-m", "qmond", "--config", _config(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "use of undeclared identifier 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr


def _config(folder: Path) -> Path:
    file = folder / "own.yaml"
    file.write_text(f"log:\n  dir: {folder}/log\nsocket:\n  path: {folder}/own.sock\n")
    return file


def test_what_the_ring_had_no_room_for_is_counted_and_told(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(ring={"size": "64K"})
    daemon.process.send_signal(signal.SIGSTOP)
    program = build("waits", "aarch64")
    subprocess.run(["qemu-aarch64-static", program], input=b"f" * 200, check=True)
    daemon.process.send_signal(signal.SIGCONT)
    wait_until(lambda: any(event.get("event") == "LOST" for event in daemon.events()))
    assert daemon.status()["tracked"] == 0, "though the ends of most were lost"
    events = daemon.stop()
    lost = [event for event in events if event.get("event") == "LOST"]
    totals = events[-1]["totals"]
    told: Counter[str] = Counter()
    for event in lost:
        assert event["stage"] == "ring"
        assert event["count"] == sum(event["by_event"].values())
        assert events[0]["ts"] <= event["since"] <= event["ts"]
        told.update(event["by_event"])
    assert told == {name: row["lost"] for name, row in totals.items() if row["lost"]}
    # 200 forks by the guest's own account, and the interpreter's none
    assert totals["TRACK_FORK"]["seen"] == 200
    assert totals["EXIT"]["seen"] == 201
    assert totals["WAIT4_EXITED"]["seen"] == 200


def test_a_log_that_cannot_be_written_is_counted_and_clients_are_served(
    qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], check=True)
    daemon = qmond(log={"dir": str(full / "log")})
    try:
        program = build("waits", "aarch64")
        subprocess.run(["qemu-aarch64-static", program], input=b"f" * 30, check=True)
        wait_until(lambda: any(row["lost"] for row in daemon.status()["counters"].values()))
        tailing = tail(daemon, "--event", "EXIT")
        subprocess.run(["qemu-aarch64-static", program], input=b"f", check=True)
        time.sleep(1.2)  # LOST is told, and lost itself
        counters = daemon.status()["counters"]
        assert counters["READ"]["lost"] > 0
        log = (daemon.log / "events.jsonl").read_bytes()
        names = Counter(
            event.get("event") or event["evt"] for event in map(json.loads, log.splitlines())
        )
        assert log.endswith(b"\n"), "no torn line"
        assert names == {name: row["written"] for name, row in counters.items() if row["written"]}
        for name, row in counters.items():
            assert row["seen"] == row["written"] + row["lost"] + row["suppressed"], name
        daemon.end()
        assert tailing.communicate(timeout=PATIENCE)[0].count(b'"EXIT"') == 2
    finally:
        daemon.kill()
        subprocess.run(["umount", full], check=True)
