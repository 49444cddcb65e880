"""The loader: a child process in which BCC compiles, loads and attaches qmon.c.

`load()` is the daemon's side. It starts this module as a program, which sends the descriptors back.
Only that child imports bcc, because BCC and LLVM never free the memory that they take.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from qmond.bpf.btf import Btf, read_vmlinux
from qmond.bpf.header import URGENT_SIZE, header
from qmond.bpf.maps import Map, possible_cpus
from qmond.bpf.uprobes import UPROBE_MULTI, has_multi
from qmond.errors import BtfError, LoadError, QmondError
from qmond.events.calls import CALL, HANDLERS, HOSTS, pack
from qmond.events.records import layout_format

__all__ = ["Options", "fingerprint", "load", "names"]

_HERE: Final = Path(__file__).parent
_TIMEOUT: Final = 120
"""Seconds. Loading takes less than one, but nine were seen on a busy machine."""

OFFSETS: Final = {
    "BPRM_FILE": "linux_binprm.file",
    "BPRM_FILENAME": "linux_binprm.filename",
    "BPRM_INTERP": "linux_binprm.interp",
    "CGROUP_KN": "cgroup.kn",
    "CSS_SET_DFL_CGRP": "css_set.dfl_cgrp",
    "DENTRY_HASHED": "dentry.d_hash.pprev",
    "DENTRY_NAME": "dentry.d_name.name",
    "DENTRY_NAME_SIZE": "dentry.d_name.len",
    "DENTRY_PARENT": "dentry.d_parent",
    "FILE_DENTRY": "file.f_path.dentry",
    "FS_PWD": "fs_struct.pwd.dentry",
    "FS_PWD_MOUNT": "fs_struct.pwd.mnt",
    "FS_ROOT": "fs_struct.root.dentry",
    "FS_ROOT_MOUNT": "fs_struct.root.mnt",
    "KERNFS_NODE_NAME": "kernfs_node.name",
    "KERNFS_NODE_PARENT": "kernfs_node.__parent kernfs_node.parent",
    "MM_ARG_END": "mm_struct.arg_end",
    "MM_ARG_START": "mm_struct.arg_start",
    "MOUNT_PARENT": "mount.mnt_parent",
    "MOUNT_PLACE": "mount.mnt_mountpoint",
    "MOUNT_ROOT": "mount.mnt.mnt_root",
    "MOUNT_VFSMOUNT": "mount.mnt",
    "SIGNAL_FLAGS": "signal_struct.flags",
    "SIGNAL_GROUP_EXIT_CODE": "signal_struct.group_exit_code",
    "SIGNAL_LIVE": "signal_struct.live",
    "TASK_CGROUPS": "task_struct.cgroups",
    "TASK_COMM": "task_struct.comm",
    "TASK_EXIT_CODE": "task_struct.exit_code",
    "TASK_FS": "task_struct.fs",
    "TASK_GROUP_LEADER": "task_struct.group_leader",
    "TASK_MM": "task_struct.mm",
    "TASK_PID": "task_struct.pid",
    "TASK_REAL_PARENT": "task_struct.real_parent",
    "TASK_SIGNAL": "task_struct.signal",
    "TASK_START_BOOTTIME": "task_struct.start_boottime",
    "TASK_TGID": "task_struct.tgid",
}
"""The member in BTF for each OFFSET_… of qmon.c; of two, that of newer kernels is first."""
HOST_OFFSETS: Final = {"x86_64": {"TASK_STATUS": "task_struct.thread_info.status"}, "aarch64": {}}
"""The same, for one architecture of the host."""

TRACEPOINTS: Final = (
    "sched_process_exec",
    "sched_process_exit",
    "task_newtask",
    "sys_enter",
    "sys_exit",
    "sched_switch",
    "signal_generate",
)
MAPS: Final = (
    "events",
    "urgent",
    "tracked",
    "probed",
    "settings",
    "counters",
    "buckets",
    "statistics",
    "others",
    "handlers",
)


@dataclass(frozen=True, slots=True)
class Options:
    """Options that are fixed when the kernel side is loaded."""

    ring: int
    """Bytes, a power of two, at least a page."""
    multi: bool = True
    """Whether allocation probes use uprobe_multi links, if the kernel has them."""


def names() -> set[str]:
    """Return the names of the descriptors that `load` returns."""
    links = {f"link:{name}" for name in TRACEPOINTS}
    return links | {f"map:{name}" for name in MAPS} | {"program:on_allocation"}


def fingerprint(options: Options, *more: str) -> str:
    """Return a hash that is the same if `load` would load the same kernel side.

    `more` is added to the hash.
    """
    parts = [header(), (_HERE / "qmon.c").read_text(), repr(pack(platform.machine()))]
    parts += [
        repr(options),
        platform.release(),
        str(possible_cpus()),
        repr((OFFSETS, HOST_OFFSETS)),
        *more,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def load(options: Options) -> dict[str, int]:
    """Compile and attach the kernel side; returns its descriptors by name.

    Names are `map:NAME`, `link:TRACEPOINT` and `program:NAME`. The caller owns the descriptors.
    Raises LoadError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    noise = os.memfd_create("qmond-loader")
    words = json.dumps(asdict(options))
    with ours, os.fdopen(noise, "rb") as said:
        with theirs:
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), words],
                stdin=subprocess.DEVNULL,
                stdout=noise,
                stderr=noise,
                pass_fds=[theirs.fileno()],
            )
        try:
            ours.settimeout(_TIMEOUT)
            message, descriptors, _, _ = socket.recv_fds(ours, 65536, 253)
        except TimeoutError as error:
            child.kill()
            raise LoadError(f"loading the kernel side took more than {_TIMEOUT} s") from error
        finally:
            child.wait()
        said.seek(0)
        output = said.read().decode(errors="replace")
    answer: dict[str, Any] = json.loads(message) if message else {}
    if "names" in answer:
        return dict(zip(answer["names"], descriptors, strict=True))
    raise _failure(answer, output)


def _failure(answer: dict[str, Any], output: str) -> LoadError:
    """Return the error, with the end of the messages of clang or of the verifier."""
    lines = [line for line in output.splitlines() if line.strip()]
    reason = answer.get("error") or "the loader ended without an answer"
    detail = "".join(f"\n  | {line}" for line in lines[-30:])
    return LoadError(
        f"the kernel side could not be loaded: {reason}{detail}", hint=answer.get("hint", "")
    )


# ---- the child -------------------------------------------------------------------------------


def _build(options: Options) -> dict[str, int]:
    """Compile, load, fill the tables and attach; returns descriptors that this process owns."""
    host = platform.machine()
    if host not in HOSTS:
        raise LoadError(f"no system call table for a host of {host}: there are {', '.join(HOSTS)}")
    btf = read_vmlinux()
    offsets = OFFSETS | HOST_OFFSETS[host]
    flags = [f"-DOFFSET_{name}={_offset(btf, paths)}" for name, paths in offsets.items()]
    flags += [
        f"-DRING_PAGES={options.ring // os.sysconf('SC_PAGE_SIZE')}",
        f"-DURGENT_PAGES={URGENT_SIZE // os.sysconf('SC_PAGE_SIZE')}",
        f"-DCPU_COUNT={possible_cpus()}",
        "-g0",  # BCC asks for debug information, which nothing here uses: an eighth of the time
    ]
    os.environ["BCC_KERNEL_SOURCE"] = str(_HERE / "stubs")
    try:
        from bcc import BPF  # noqa: PLC0415 - it takes 60 MB: only in this child
    except ImportError as error:
        message = f"{sys.executable} has no module bcc: {error}"
        hint = "install python3-bpfcc; a venv needs --system-site-packages"
        raise LoadError(message, hint=hint) from error

    text = header() + '#line 1 "qmon.c"\n' + (_HERE / "qmon.c").read_text()
    program = BPF(text=text, cflags=flags)
    for index, name in enumerate(HANDLERS[1:], start=1):
        handler = program.load_func(f"on_{name}", BPF.RAW_TRACEPOINT)
        program["handlers"][index] = handler
    calls = Map(program["calls"].map_fd, 4, layout_format(CALL).size)
    for number, row in pack(host).items():
        calls[number.to_bytes(4, sys.byteorder)] = row
    found = {f"map:{name}": program[name].map_fd for name in MAPS}
    found["program:on_allocation"] = _load_allocation(program, multi=options.multi)
    # BPF() has attached the tracepoints by the names of the programs. They do nothing until the
    # daemon writes settings: these are 0
    links = {name.decode(): fd for name, fd in program.raw_tracepoint_fds.items()}
    found |= {f"link:{name}": links[name] for name in TRACEPOINTS}
    return found


def _offset(btf: Btf, paths: str) -> int:
    """Return the offset of the first of these members that this kernel has. Raises BtfError."""
    *others, last = paths.split()
    for path in others:
        with contextlib.suppress(BtfError):
            return btf.offset(path)
    return btf.offset(last)


def _load_allocation(program: Any, *, multi: bool) -> int:  # noqa: ANN401 - a bcc.BPF
    """Load the program of the allocation probes, for uprobe_multi links or for perf events."""
    from bcc import BPF  # noqa: PLC0415 - as above

    if multi:
        fd: int = program.load_func("on_allocation", BPF.KPROBE, None, UPROBE_MULTI).fd
        if has_multi(fd):
            return fd
        del program.funcs[b"on_allocation"]  # otherwise bcc returns the same again
    single: int = program.load_func("on_allocation", BPF.KPROBE).fd
    return single


def _hint() -> str:
    if os.geteuid() != 0:
        return "run it as root: it needs CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH"
    return (
        f"kernel {platform.release()}; /sys/kernel/security/lockdown must not say [confidentiality]"
    )


def main(arguments: list[str]) -> None:
    """Run as the child. Arguments: the descriptor of the socket to the daemon, options as JSON."""
    channel = socket.socket(fileno=int(arguments[0]))
    found: dict[str, int] = {}
    answer: dict[str, Any]
    try:
        found = _build(Options(**json.loads(arguments[1])))
    except QmondError as error:
        answer = {"error": error.args[0], "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exception; the daemon reports it
        answer = {"error": str(error), "hint": _hint()}
    else:
        answer = {"names": list(found)}
    socket.send_fds(channel, [json.dumps(answer).encode()], list(found.values()))
    sys.stderr.flush()
    os._exit(0)  # without bcc's clean-up: the daemon has the probes now


if __name__ == "__main__":
    main(sys.argv[1:])
