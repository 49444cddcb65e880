"""The code itself: format, lint, types, import order, sizes, and a test file for each module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "events": set(),
    "systemd": set(),
    "config": {"events"},
    "processes": {"events"},
    "bpf": {"events", "processes"},
    "lines": {"bpf", "config", "events", "processes"},
    "log": {"config", "events", "systemd"},
    "server": {"events", "log", "systemd"},
    "outputs": {"config", "events", "systemd"},
    "looker": {"bpf", "events", "processes"},
    "front": {"events", "log", "outputs", "server", "systemd"},
    "daemon": {
        "bpf", "config", "events", "lines", "log", "looker", "outputs", "processes", "server",
        "systemd",
    },
    "ctl": {"events"},
}  # fmt: skip
"""What each folder of qmond/ may import from, beside itself and the modules for all."""
FOR_ALL = {
    "__init__", "clock", "errors", "escape", "lognames", "namespaces", "privileges", "units",
}  # fmt: skip
"""Modules beside the folders that any of them may import."""
CLIENT = {"asyncclient", "client", "cursor", "errors", "wire"}
"""Modules that import one another and nothing else: other programs have these alone."""
MODULES = sorted((ROOT / "qmond").rglob("*.py"))
TESTED_TOGETHER = {
    "__main__": "root/test_daemon",
    "asyncclient": "test_client",
    "bpf.header": "events/test_events",
    "bpf.load": "root/test_daemon",
    "bpf.probes": "root/test_actions",
    "config.keys": "config/test_config",
    "config.rules": "lines/test_redact",
    "config.values": "config/test_config",
    "ctl.__init__": "ctl/test_ctl",
    "ctl.config": "config/test_config",
    "ctl.connection": "ctl/test_verbs",
    "ctl.edge": "ctl/test_verbs",
    "ctl.events": "events/test_events",
    "ctl.following": "ctl/test_tail",
    "ctl.formats.chrome": "ctl/test_export",
    "ctl.formats.lines": "ctl/test_export",
    "ctl.formats.output": "ctl/test_export",
    "ctl.formats.perfetto": "ctl/test_export",
    "ctl.formats.sql": "ctl/test_query",
    "ctl.formats.table": "ctl/test_export",
    "ctl.formats.tracks": "ctl/test_export",
    "ctl.interrupts": "ctl/test_verbs",
    "ctl.log_level": "root/test_socket",
    "ctl.manual": "ctl/test_ctl",
    "ctl.ps": "ctl/test_ctl",
    "ctl.record": "root/test_record",
    "ctl.reload": "root/test_service",
    "ctl.rotate": "root/test_socket",
    "ctl.runs.ancestors": "ctl/test_recording",
    "ctl.runs.command": "ctl/test_recording",
    "ctl.runs.commandtree": "ctl/test_recording",
    "ctl.runs.digest": "ctl/test_recording",
    "ctl.runs.missing": "ctl/test_recording",
    "ctl.runs.ostext": "ctl/test_recording",
    "ctl.runs.summary": "ctl/test_recording",
    "ctl.show.printing": "ctl/test_tail",
    "ctl.show.sampling": "ctl/test_top",
    "ctl.show.screen": "ctl/test_top",
    "ctl.show.strace": "ctl/test_render",
    "ctl.show.text": "ctl/test_ctl",
    "ctl.status": "ctl/test_ctl",
    "ctl.tree": "ctl/test_ctl",
    "ctl.waiting": "ctl/test_tail",
    "daemon.answers": "root/test_socket",
    "daemon.allocations": "root/test_allocations",
    "daemon.daemon": "root/test_daemon",
    "daemon.entrance": "front/test_front",
    "daemon.exporting": "outputs/test_metrics",
    "daemon.channel": "front/test_front",
    "daemon.fronting": "front/test_front",
    "daemon.guard": "root/test_safety",
    "daemon.identity": "front/test_front",
    "daemon.losses": "root/test_faults",
    "daemon.metrics": "outputs/test_metrics",
    "daemon.pipeline": "root/test_restart",
    "daemon.service": "root/test_service",
    "daemon.startup": "root/test_restart",
    "daemon.statistics": "daemon/test_accounts",
    "daemon.status": "root/test_socket",
    "daemon.timers": "root/test_daemon",
    "daemon.watch": "root/test_daemon",
    "errors": "config/test_config",
    "events.architectures": "server/test_arguments",
    "events.calls": "events/test_events",
    "events.content": "server/test_filters",
    "events.fields": "events/test_events",
    "events.guestglob": "server/test_filters",
    "events.records": "events/test_events",
    "events.schema": "events/test_events",
    "events.table": "events/test_events",
    "events.words": "lines/test_encode",
    "front.__main__": "front/test_front",
    "front.core": "front/test_front",
    "lines.build": "lines/test_encode",
    "lines.compiler": "lines/test_encode",
    "lines.encoder": "lines/test_encode",
    "lines.masking": "lines/test_redact",
    "lines.opcodes": "lines/test_encode",
    "log.compress": "log/test_eventlog",
    "log.files": "log/test_eventlog",
    "log.keeper": "root/test_faults",
    "log.retention": "log/test_eventlog",
    "log.writer": "log/test_eventlog",
    "looker.child": "looker/test_asking",
    "looker.process": "looker/test_asking",
    "looker.requests": "looker/test_asking",
    "looker.scan": "looker/test_asking",
    "looker.waiting": "looker/test_asking",
    "outputs.exporter": "outputs/test_metrics",
    "outputs.exposition": "outputs/test_metrics",
    "outputs.journal": "test_messages",
    "processes.table": "processes/test_processes",
    "processes.texts": "processes/test_processes",
    "server.choices": "server/test_hub",
    "server.control": "front/test_front",
    "server.operations": "root/test_socket",
    "server.sendbuffer": "server/test_connection",
    "server.settings": "front/test_front",
    "server.source": "server/test_hub",
    "server.tail": "server/test_hub",
    "systemd.fdstore": "root/test_restart",
    "systemd.journald": "test_messages",
    "systemd.messages": "test_messages",
    "units": "config/test_config",
    "wire": "test_client",
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
    """Return the modules of qmond that a module imports anywhere, by their dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    names = {name.removeprefix("qmond").removeprefix(".") for name in found if is_ours(name)}
    known = {name for name in names if name in NAMES}
    return known | ({"__init__"} if "__version__" in names else set())


def is_ours(name: str) -> bool:
    return name == "qmond" or name.startswith("qmond.")


def room_of(name: str) -> str:
    return name.split(".", maxsplit=1)[0] if "." in name else ""


NAMES = {name_of(path) for path in MODULES} | {
    name_of(path).removesuffix(".__init__") for path in MODULES
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_folder_imports_from_those_that_it_may(path: Path) -> None:
    room = room_of(name_of(path))
    if name_of(path) in {"__init__", "__main__"} | CLIENT:
        return
    for name in imports(path):
        other = room_of(name) or (name if name in ROOMS else "")
        if other:
            assert room, f"{name_of(path)} is for all, and imports {name}"
            assert other == room or other in ROOMS[room], name
        elif not (room == "ctl" and name in {"client", "cursor"}):
            assert name in FOR_ALL, name


def test_the_client_needs_nothing_but_its_own_modules() -> None:
    packed = (ROOT / "script/deb").read_text()
    for name in CLIENT:
        assert imports(ROOT / f"qmond/{name}.py") <= CLIENT, name
        assert f" {name}.py " in packed, f"{name} is not in python3-qmond"


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {name_of(path): imports(path) - {name_of(path)} for path in MODULES}
    for name in ("ctl.edge", "ctl.verbs"):
        graph[name] -= {"ctl"}  # the modules in it, not what its own module imports
    for name, others in graph.items():
        graph[name] = {f"{o}.__init__" if f"{o}.__init__" in graph else o for o in others}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph


def test_bcc_is_imported_by_the_loader_alone() -> None:
    importers = [name_of(path) for path in MODULES if "from bcc import" in path.read_text()]
    assert importers == ["bpf.load"]


def test_what_others_can_hold_is_read_by_the_lookers_alone() -> None:
    """Procfs, memory, executables, libraries: the daemon itself reads none of it as it runs."""
    readers = {"processes.procfs", "bpf.elf", "bpf.uprobes", "looker.scan", "looker.process"}
    allowed = {
        "daemon.startup": {"processes.procfs"},  # whose processes a procfs has, once
        "bpf.load": {"bpf.uprobes"},  # what the kernel can do, in a process of its own
    }
    for path in MODULES:
        name = name_of(path)
        if name not in readers and not name.startswith("ctl."):
            assert imports(path) & readers <= allowed.get(name, set()), name


def test_modules_stay_under_400_lines() -> None:
    long = {name_of(path) for path in MODULES if len(path.read_text().splitlines()) > 400}
    assert long - {"events.calls", "events.table"} == set(), "tables may be as long as they are"


def test_each_module_has_a_test_file() -> None:
    for path in MODULES:
        name = name_of(path)
        own = f"{room_of(name)}/test_{path.stem}".removeprefix("/")
        file = ROOT / "tests" / f"{TESTED_TOGETHER.get(name, own)}.py"
        if path.read_text().count("\n") > 5:
            assert file.exists(), f"{name} has no {file}"


def test_each_folder_says_what_it_is_for() -> None:
    assert {path.parent.name for path in MODULES if path.stem == "__init__"} >= ROOMS.keys()
    for room in ROOMS:
        module = ast.parse((ROOT / "qmond" / room / "__init__.py").read_text())
        assert ast.get_docstring(module), room
