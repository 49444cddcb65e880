"""Programs of attackers: compiled, given a name that is watched, and run without any privilege."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elves import CODE, SYMBOL, elf, library

PROGRAMS = Path(__file__).parent / "programs"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL"]

MEMBER = ["setpriv", "--reuid=65534", "--regid=65534", "--groups=60"]
"""Of the group games, who may ask a daemon of these tests."""
_MADE = {
    "sparse": library(0x20),
    "tables": elf([(11, 4096, SYMBOL * 100_000, 1)] * 65_280, [CODE]),
    "nowhere": library(0x10000),
    "behind": library(4000),
}
"""What a file that is called as a C library has in it."""
LIBRARIES = [*_MADE, "own"]


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody may look into, with one inside that everybody may write to."""
    with tempfile.TemporaryDirectory(prefix="qmond-hostile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "own").mkdir()
        (folder / "own").chmod(0o777)
        yield folder


def compiled(name: str, folder: Path, *, called: str = "") -> Path:
    """Compile a program of PROGRAMS for this host; returns it under a name that is watched."""
    program = folder / (called or f"qemu-{name}")
    flags = ["-static", "-pthread", "-O1", "-Wall", "-Wextra"]
    subprocess.run(["gcc", *flags, "-o", program, PROGRAMS / f"{name}.c"], check=True)
    program.chmod(0o755)
    return program


@contextlib.contextmanager
def attacking(*command: str | Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program as nobody, in a folder; it is ended at the end."""
    with subprocess.Popen(
        [*NOBODY, *map(str, command)],
        cwd=folder / "own",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": "/nonexistent"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def attacked(*command: str | Path, folder: Path) -> str:
    """Run a program as nobody to its end; returns what it printed."""
    with attacking(*command, folder=folder) as process:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said


@contextlib.contextmanager
def mute(folder: Path) -> Iterator[int]:
    """Start a process whose memory nobody can read to the end; yields its ID."""
    mount = folder / "mount"
    mount.mkdir(exist_ok=True)
    program = compiled("mute", folder)
    with subprocess.Popen(
        [program, mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"mapped\n"
            yield process.pid
        finally:
            process.kill()


def planted(kind: str, folder: Path) -> tuple[Path, Path]:
    """Return a file that is called as a C library, one of LIBRARIES, and a program that maps it."""
    file = folder / "libc.so.6"
    if kind == "own":
        found = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True)
        shutil.copy(next(w for w in found.stdout.split() if "/libc.so.6" in w), file)
        os.chown(file, 65534, 65534)
    else:
        file.write_bytes(_MADE[kind])
        if kind == "sparse":
            os.truncate(file, 3 << 30)
        elif kind == "tables":
            os.truncate(file, 8 << 20)
    mapper = folder / f"qemu-{kind}"
    subprocess.run(["gcc", "-no-pie", "-o", mapper, PROGRAMS / "library.c"], check=True)
    return file, mapper


FLOOD = """
import socket, sys, threading, time
end = time.monotonic() + float(sys.argv[2])
def ask():
    try:
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(1)
        while time.monotonic() < end:
            try:
                s.sendall(b'{"op":"status"}\\n{"op":"ps"}\\n{"op":"tree"}\\n' * 200)
                s.recv(1 << 20)
            except TimeoutError: pass
    except OSError: pass
threads = [threading.Thread(target=ask) for _ in range(32)]
[t.start() for t in threads]; [t.join() for t in threads]
"""
TAILS = """
import json, socket, sys, time
end = time.monotonic() + float(sys.argv[2])
open_ = []
for at in range(64):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); open_.append(s)
    pids = list(range(at, 7200 * 3 + at, 3))
    try:
        for count in (7200, 1024):
            args = {"pids": pids[:count]}
            s.sendall(json.dumps({"op": "tail", "args": args}).encode() + b"\\n")
    except OSError: pass
time.sleep(max(0, end - time.monotonic()))
"""


@contextlib.contextmanager
def clients(path: Path, program: str, seconds: float) -> Iterator[None]:
    """Run FLOOD or TAILS against a daemon's socket."""
    command = [*MEMBER, "/usr/bin/python3", "-c", program, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
