"""Check the host for everything that qmond needs, and say what to do if something is missing.

qmonctl doctor                  a line for each check
qmonctl doctor --json | jq '.[] | select(.state!="ok")'

Exit status: 0, or 1 if a check failed. A warning is not a failure.
"""

from __future__ import annotations

import argparse
import grp
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from qmond.client import DEFAULT_SOCKET, Client
from qmond.ctl.export import DEFAULT_LOG
from qmond.ctl.show.text import print_json, printable
from qmond.errors import QmondError

__all__ = ["Finding", "add_arguments", "check_host", "run"]

_KERNEL_MIN: Final = (6, 1)
_PROGRAMS_MAX: Final = 4.5
"""Seconds for the programs that are run, in all."""
_SYSTEMD_MAX: Final = 1
_SOCKET_MAX: Final = 3
"""Seconds for each answer of the daemon."""
_FIND_BCC: Final = "import importlib.util, sys; sys.exit(importlib.util.find_spec('bcc') is None)"
_FREE_MIN: Final = 1 << 30
"""Bytes of free disk space."""
_GROUPS: Final = ("qmon", "qmon-payload")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `state` is ok, warn or fail; `advice` says what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="the results, for programs")


def run(options: argparse.Namespace) -> int:
    """Print the results of all checks."""
    findings = list(_findings(options.socket))
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.state:4}  {finding.name:12}  {printable(finding.found)}\n")
            if finding.advice:
                sys.stdout.write(f"{'':20}→ {printable(finding.advice)}\n")
    return int(any(finding.state == "fail" for finding in findings))


def _findings(path: Path | None) -> Iterator[Finding]:
    """Make all checks. Programs run meanwhile, so that all of it takes less than 5 seconds."""
    end = time.monotonic() + _PROGRAMS_MAX
    bcc = _Program(["/usr/bin/python3", "-I", "-c", _FIND_BCC])  # the system's own, which has bcc
    config = _Program(_check_config(), _service_environment() | os.environ)
    host, socket = list(check_host(Path("/"))), list(_socket(path))
    yield from host
    yield _bcc(bcc.result(end))
    yield _config(config.result(end))
    yield from socket


def check_host(root: Path) -> Iterator[Finding]:
    """Check the kernel and the emulators of a host, whose root directory is `root`."""
    yield _kernel(_text(root / "proc/sys/kernel/osrelease"))
    btf = root / "sys/kernel/btf/vmlinux"
    if os.access(btf, os.F_OK):
        yield Finding("btf", "ok", f"{btf} exists")
    else:
        yield Finding("btf", "fail", f"{btf} is missing", "use a kernel with CONFIG_DEBUG_INFO_BTF")
    yield _lockdown(_text(root / "sys/kernel/security/lockdown"))
    yield from _binfmt(root / "proc/sys/fs/binfmt_misc")
    yield _emulators(root / "usr/bin")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _kernel(release: str) -> Finding:
    digits = release.split("-", maxsplit=1)[0].split(".")[:2]
    version = tuple(int(part) for part in digits if part.isdecimal())
    if len(version) == 2 and version >= _KERNEL_MIN:
        return Finding("kernel", "ok", release)
    minimum = ".".join(map(str, _KERNEL_MIN))
    advice = f"qmond supports {minimum} and later"
    return Finding("kernel", "warn", release or "unknown", advice)


def _lockdown(text: str) -> Finding:
    if "[confidentiality]" in text:
        advice = "it forbids BPF to read memory: boot with lockdown=integrity or none"
        return Finding("lockdown", "fail", "confidentiality", advice)
    mode = text.partition("[")[2].partition("]")[0]
    return Finding("lockdown", "ok", mode or "not in use")


def _binfmt(folder: Path) -> Iterator[Finding]:
    entries = {path.name: _text(path) for path in sorted(folder.glob("qemu-*"))}
    if not entries:
        advice = "to run foreign programs without naming the emulator: package qemu-user-static"
        yield Finding("binfmt_misc", "warn", "no qemu entries", advice)
        return
    off = [name for name, text in entries.items() if not text.startswith("enabled")]
    found = f"{len(entries)} qemu entries"
    if off:
        yield Finding("binfmt_misc", "warn", f"{found}, disabled: {', '.join(off)}")
    else:
        yield Finding("binfmt_misc", "ok", found)


def _emulators(folder: Path) -> Finding:
    system = ("qemu-system", "qemu-img", "qemu-io", "qemu-nbd", "qemu-storage", "qemu-ga")
    found = sorted(p.name for p in folder.glob("qemu-*") if not p.name.startswith(system))
    if found:
        shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        return Finding("qemu-user", "ok", f"{len(found)} in {folder}: {shown}")
    return Finding(
        "qemu-user", "warn", f"none in {folder}", "packages qemu-user or qemu-user-static"
    )


def _disk(folder: Path, note: str = "") -> Finding:
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    free = shutil.disk_usage(existing).free
    found = f"{free >> 20} MB free for {folder}{note}"
    if free >= _FREE_MIN:
        return Finding("disk", "ok", found)
    return Finding("disk", "warn", found, "lower log.keep, or set log.dir to another disk")


class _Program:
    """A program that runs while other checks are made."""

    def __init__(self, words: list[str], environment: dict[str, str] | None = None) -> None:
        self._name, self._running, self._fault = words[0], None, ""
        pipe = subprocess.PIPE
        try:
            self._running = subprocess.Popen(  # noqa: S603 - our own words
                words, stdout=pipe, stderr=pipe, env=environment, text=True, errors="replace"
            )
        except OSError as error:
            self._fault = f"{self._name}: {error.strerror}"

    def result(self, end: float) -> tuple[int | None, list[str]]:
        """Return its exit status and what it said; None and why, if it did not end by `end`."""
        if self._running is None:
            return None, [self._fault]
        try:
            out, said = self._running.communicate(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._end()
            return None, [f"{self._name} takes too long"]
        return self._running.returncode, (said or out).strip().splitlines()

    def _end(self) -> None:
        """End the program. Its output is not read: what it has started may still hold the pipe."""
        assert self._running is not None  # noqa: S101 - for the type checker
        self._running.kill()
        self._running.wait()
        for pipe in (self._running.stdout, self._running.stderr):
            if pipe is not None:
                pipe.close()


def _bcc(result: tuple[int | None, list[str]]) -> Finding:
    status, lines = result
    if status is None:
        return Finding("bcc", "warn", f"not checked: {lines[0]}")
    if status:
        advice = "apt-get install python3-bpfcc"
        return Finding("bcc", "fail", "Python cannot import bcc", advice)
    return Finding("bcc", "ok", "Python can import bcc")


def _check_config() -> list[str]:
    beside = Path(sys.argv[0]).with_name("qmond")
    return [shutil.which("qmond") or str(beside), "--check"]


def _config(result: tuple[int | None, list[str]]) -> Finding:
    status, lines = result
    if status is None:
        return Finding("config", "warn", f"not checked: {lines[0]}", "is qmond installed?")
    if status == 0:
        return Finding("config", "ok", lines[-1] if lines else "no faults")
    return Finding("config", "fail", "; ".join(lines), "correct the file: see man qmon.yaml")


def _service_environment() -> dict[str, str]:
    """Return the variables that qmond.service and its drop-ins set, such as QMOND_CONFIG."""
    show = ["systemctl", "show", "--property=Environment", "--value", "qmond.service"]
    status, lines = _Program(show).result(time.monotonic() + _SYSTEMD_MAX)
    try:
        return dict(word.split("=", 1) for word in shlex.split(" ".join(lines) * (status == 0)))
    except ValueError:
        return {}


def _socket(path: Path | None) -> Iterator[Finding]:
    try:
        with Client(path, timeout=_SOCKET_MAX) as client:
            status, about = client.status(), client.about
    except QmondError as error:
        yield Finding("socket", "fail", error.args[0], error.hint)
        yield _disk(DEFAULT_LOG, ", the default of log.dir")
        if os.geteuid() != 0:
            yield _groups()
        return
    where = path or Path(os.environ.get("QMOND_SOCKET", DEFAULT_SOCKET))
    found = f"{where}: qmond {about['version']}, protocol {about['protocol']}"
    yield Finding("socket", "ok", found)
    yield _disk(Path(status["log"]["path"]).parent)
    for limit in status["limits"]:
        yield Finding("limit", "warn", limit)
    for advice in status["advice"]:
        yield Finding("losses", "warn", advice)
    if status["log"]["failing"]:
        yield Finding("log", "fail", f"{status['log']['path']} cannot be written")


def _groups() -> Finding:
    own = {grp.getgrgid(number).gr_name for number in os.getgroups()}
    found = ", ".join(sorted(own & set(_GROUPS))) or f"in none of {', '.join(_GROUPS)}"
    return Finding("groups", "warn", found, "as root: usermod -aG qmon NAME; then log in again")
