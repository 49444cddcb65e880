"""The code itself: format, lint, types, import order, sizes, and a test file for each module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    "__init__",
    "errors",
    "escape",
    "privileges",
    "units",
    "records",
    "opcodes",
    "encode_build",
    "words",
    "fields",
    "events",
    "calls",
    "schema",
    "clock",
    "journald",
    "messages",
    "access",
    "shares",
    "settings",
    "control",
    "bpf.__init__",
    "bpf.header",
    "redact",
    "values",
    "config",
    "identity",
    "entrance",
    "exporting",
    "procfs",
    "bpf.btf",
    "bpf.maps",
    "bpf.ring",
    "bpf.elf",
    "bpf.uprobes",
    "bpf.load",
    "bpf.probes",
    "looker.__init__",
    "looker.requests",
    "looker.scan",
    "looker.process",
    "looker.waiting",
    "looker.child",
    "looker.asking",
    "texts",
    "cgroups",
    "processes",
    "adoption",
    "compiler",
    "masking",
    "encode",
    "logfile",
    "history",
    "broadcast",
    "compress",
    "retention",
    "eventlog",
    "logkeeper",
    "lives",
    "accounting",
    "guard",
    "allocations",
    "statistics",
    "journal",
    "store",
    "startup",
    "protocol",
    "filters",
    "reader",
    "forkserver",
    "feeds",
    "verbs",
    "audience",
    "clients",
    "server",
    "core",
    "answers",
    "exposition",
    "scrape",
    "front",
    "fronting",
    "reports",
    "metrics",
    "forward",
    "rounds",
    "daemon",
    "service",
    "__main__",
    "client",
    "ctl.text",
    "ctl.render",
    "ctl.strace",
    "ctl.tail",
    "ctl.events",
    "ctl.config",
    "ctl.log_level",
    "ctl.rotate",
    "ctl.reload",
    "ctl.command",
    "ctl.family",
    "ctl.digest",
    "ctl.recording",
    "ctl.record",
    "ctl.lines",
    "ctl.tracks",
    "ctl.perfetto",
    "ctl.chrome",
    "ctl.table",
    "ctl.export",
    "ctl.sql",
    "ctl.query",
    "ctl.sampling",
    "ctl.screen",
    "ctl.top",
    "ctl.doctor",
    "ctl.completion",
    "ctl.status",
    "ctl.ps",
    "ctl.tree",
    "ctl.__init__",
    "ctl.manual",
]
"""Each module may import only those before it."""
MODULES = sorted((ROOT / "qmond").rglob("*.py"))
TESTED_TOGETHER = {
    "records": "test_events",
    "calls": "test_events",
    "schema": "test_events",
    "words": "test_encode",
    "fields": "test_events",
    "opcodes": "test_encode",
    "compiler": "test_encode",
    "encode_build": "test_encode",
    "masking": "test_redact",
    "errors": "test_config",
    "logfile": "test_eventlog",
    "logkeeper": "root/test_faults",
    "compress": "test_eventlog",
    "retention": "test_eventlog",
    "service": "root/test_service",
    "units": "test_config",
    "values": "test_config",
    "header": "test_events",
    "load": "root/test_daemon",
    "probes": "root/test_actions",
    "daemon": "root/test_daemon",
    "__main__": "root/test_daemon",
    "tail": "root/test_daemon",
    "status": "test_ctl",
    "text": "test_ctl",
    "ps": "test_ctl",
    "tree": "test_ctl",
    "strace": "test_render",
    "log_level": "root/test_socket",
    "rotate": "root/test_socket",
    "reload": "root/test_service",
    "command": "test_recording",
    "family": "test_recording",
    "digest": "test_recording",
    "record": "root/test_record",
    "lines": "test_export",
    "tracks": "test_export",
    "chrome": "test_export",
    "table": "test_export",
    "sql": "test_query",
    "sampling": "test_top",
    "screen": "test_top",
    "completion": "test_ctl",
    "manual": "test_ctl",
    "perfetto": "test_export",
    "statistics": "test_accounting",
    "startup": "root/test_restart",
    "store": "root/test_restart",
    "__init__": "test_ctl",
    "allocations": "root/test_allocations",
    "guard": "root/test_safety",
    "requests": "test_asking",
    "scan": "test_asking",
    "process": "test_asking",
    "waiting": "test_asking",
    "child": "test_asking",
    "texts": "test_processes",
    "access": "root/test_socket",
    "clients": "test_server",
    "audience": "test_server",
    "shares": "test_server",
    "settings": "test_front",
    "control": "test_front",
    "core": "test_front",
    "answers": "test_front",
    "fronting": "test_front",
    "identity": "test_front",
    "entrance": "test_front",
    "exporting": "test_metrics",
    "feeds": "test_server",
    "forkserver": "test_server",
    "reader": "test_server",
    "reports": "root/test_socket",
    "exposition": "test_metrics",
    "scrape": "test_metrics",
    "journald": "test_messages",
    "forward": "test_messages",
    "rounds": "root/test_faults",
    "verbs": "root/test_socket",
}
"""Modules whose tests stand in another's file."""


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_is_formatted() -> None:
    run("ruff", "format", "--check", ".")


def test_has_no_lint() -> None:
    run("ruff", "check", ".")


def test_types_are_right() -> None:
    run("mypy")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "qmond").with_suffix("").parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qmond"):
            base = node.module.removeprefix("qmond").removeprefix(".")
            for alias in node.names:
                below = f"{base}.{alias.name}".removeprefix(".")
                found.add(below if below in ORDER else base or "__init__")
    found.discard("_encode")  # what encode.py is built with
    return {f"{name}.__init__" if f"{name}.__init__" in ORDER else name for name in found}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_what_stands_above_it(path: Path) -> None:
    above = ORDER[: ORDER.index(name_of(path))]
    assert imports(path) <= set(above)


def test_qmonctl_and_the_client_need_nothing_of_the_daemon() -> None:
    allowed = {
        "__init__",
        "errors",
        "escape",
        "client",
        "events",
        "fields",
        "schema",
        "filters",
        "protocol",
    }
    for path in [ROOT / "qmond/client.py", *(ROOT / "qmond/ctl").glob("*.py")]:
        outside = {name for name in imports(path) if not name.startswith("ctl.")}
        assert outside <= allowed


def test_bcc_is_imported_by_the_loader_alone() -> None:
    importers = [name_of(path) for path in MODULES if "from bcc import" in path.read_text()]
    assert importers == ["bpf.load"]


def test_what_others_can_hold_is_read_by_the_lookers_alone() -> None:
    """Procfs, memory, executables, libraries: the daemon itself reads none of it as it runs."""
    readers = {"procfs", "bpf.elf", "bpf.uprobes", "looker.scan", "looker.process"}
    allowed = {
        "startup": {"procfs"},  # whose processes a procfs has, once
        "bpf.load": {"bpf.uprobes"},  # what the kernel can do, in a process of its own
    }
    for path in MODULES:
        name = name_of(path)
        if name not in readers and not name.startswith("ctl."):
            assert imports(path) & readers <= allowed.get(name, set()), name


def test_modules_stay_under_400_lines() -> None:
    long = {name_of(path) for path in MODULES if len(path.read_text().splitlines()) > 400}
    assert long - {"calls", "events"} == set(), "tables may be as long as they are"


def test_each_module_has_a_test_file() -> None:
    for path in MODULES:
        name = path.stem
        file = ROOT / "tests" / f"{TESTED_TOGETHER.get(name, f'test_{name}')}.py"
        if path.read_text().count("\n") > 5:
            assert file.exists(), f"{name_of(path)} has no {file.name}"
