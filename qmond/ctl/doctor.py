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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from qmond.client import DEFAULT_SOCKET, Client
from qmond.ctl.show.text import json_text, printable
from qmond.errors import QmondError

__all__ = ["Finding", "add_arguments", "check_host", "run"]

_KERNEL: Final = (6, 1)
_FREE: Final = 1 << 30
_GROUPS: Final = ("qmon", "qmon-payload")
_LOG: Final = Path("/var/log/qmond")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: `state` is ok, warn or fail; `advice` says what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--json", action="store_true", help="the results, for programs")


def run(options: argparse.Namespace) -> int:
    """Print what was found."""
    findings = [*check_host(Path("/")), _bcc(), _config(), *_socket(options.socket)]
    if options.json:
        sys.stdout.write(json_text([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.state:4}  {finding.name:12}  {printable(finding.found)}\n")
            if finding.advice:
                sys.stdout.write(f"{'':20}→ {printable(finding.advice)}\n")
    return int(any(finding.state == "fail" for finding in findings))


def check_host(root: Path) -> Iterator[Finding]:
    """Look at the host below a root: its kernel, its interpreters."""
    yield _kernel(_text(root / "proc/sys/kernel/osrelease"))
    btf = root / "sys/kernel/btf/vmlinux"
    if os.access(btf, os.F_OK):
        yield Finding("btf", "ok", f"{btf} is there")
    else:
        yield Finding("btf", "fail", f"{btf} is missing", "use a kernel with CONFIG_DEBUG_INFO_BTF")
    yield _lockdown(_text(root / "sys/kernel/security/lockdown"))
    yield from _binfmt(root / "proc/sys/fs/binfmt_misc")
    yield _interpreters(root / "usr/bin")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _kernel(release: str) -> Finding:
    digits = release.split("-", maxsplit=1)[0].split(".")[:2]
    version = tuple(int(part) for part in digits if part.isdecimal())
    if len(version) == 2 and version >= _KERNEL:
        return Finding("kernel", "ok", release)
    wanted = ".".join(map(str, _KERNEL))
    return Finding("kernel", "warn", release or "unknown", f"qmond is made for {wanted} and later")


def _lockdown(text: str) -> Finding:
    if "[confidentiality]" in text:
        advice = "BPF may not read memory: boot with lockdown=integrity at most"
        return Finding("lockdown", "fail", "confidentiality", advice)
    mode = text.partition("[")[2].partition("]")[0]
    return Finding("lockdown", "ok", mode or "there is none")


def _binfmt(folder: Path) -> Iterator[Finding]:
    entries = {path.name: _text(path) for path in sorted(folder.glob("qemu-*"))}
    if not entries:
        advice = "foreign programs start only by an interpreter's name: package qemu-user-static"
        yield Finding("binfmt_misc", "warn", "no entry of qemu's is registered", advice)
        return
    off = [name for name, text in entries.items() if not text.startswith("enabled")]
    found = f"{len(entries)} entries of qemu's"
    if off:
        yield Finding("binfmt_misc", "warn", f"{found}, disabled: {', '.join(off)}")
    else:
        yield Finding("binfmt_misc", "ok", found)


def _interpreters(folder: Path) -> Finding:
    system = ("qemu-system", "qemu-img", "qemu-io", "qemu-nbd", "qemu-storage", "qemu-ga")
    found = sorted(p.name for p in folder.glob("qemu-*") if not p.name.startswith(system))
    if found:
        shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        return Finding("qemu-user", "ok", f"{len(found)} in {folder}: {shown}")
    return Finding(
        "qemu-user", "warn", f"none in {folder}", "packages qemu-user or qemu-user-static"
    )


def _disk(folder: Path, whose: str = "") -> Finding:
    there = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    free = shutil.disk_usage(there).free
    found = f"{free >> 20} MB free for {folder}{whose}"
    if free >= _FREE:
        return Finding("disk", "ok", found)
    return Finding("disk", "warn", found, "set log.keep lower, or log.dir to another disk")


def _bcc() -> Finding:
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('bcc') is None)"
    try:
        done = subprocess.run(  # noqa: S603 - the system's own Python, which has bcc
            ["/usr/bin/python3", "-I", "-c", script], check=False, timeout=30
        )
        missing = done.returncode
    except (OSError, subprocess.TimeoutExpired):
        missing = 1
    if missing:
        return Finding("bcc", "fail", "Python has no bcc", "apt-get install python3-bpfcc")
    return Finding("bcc", "ok", "Python has it")


def _config() -> Finding:
    program = shutil.which("qmond") or str(Path(sys.argv[0]).with_name("qmond"))
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            [program, "--check"],
            env=_service_environment() | os.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("config", "warn", f"qmond --check: {error}", "is qmond installed?")
    said = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode == 0:
        return Finding("config", "ok", said[-1] if said else "right")
    return Finding("config", "fail", "; ".join(said), "mend the file: man qmon.yaml")


def _service_environment() -> dict[str, str]:
    """Return what a drop-in has the service's environment say, QMOND_CONFIG for one."""
    try:
        done = subprocess.run(
            ["systemctl", "show", "--property=Environment", "--value", "qmond.service"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return dict(word.split("=", 1) for word in shlex.split(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}  # no systemd here


def _socket(path: Path | None) -> Iterator[Finding]:
    try:
        with Client(path) as client:
            status, about = client.status(), client.about
    except QmondError as error:
        yield Finding("socket", "fail", error.args[0], error.hint)
        yield _disk(_LOG, ", the default of log.dir")
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
    mine = {grp.getgrgid(number).gr_name for number in os.getgroups()}
    found = ", ".join(sorted(mine & set(_GROUPS))) or f"in none of {', '.join(_GROUPS)}"
    return Finding("groups", "warn", found, "as root: usermod -aG qmon NAME, and log in anew")
