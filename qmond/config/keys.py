"""The configuration file: YAML is parsed to dataclasses, and all faults are reported at once.

Each key is one field of its section, with its default and the parser that checks its value
(values.py), to which its bounds are given. Unknown and repeated keys are found here.
`etc/qmon.yaml` explains the keys to the user.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import yaml

from qmond.config import values
from qmond.config.rules import DEFAULT_RULES, Rule
from qmond.errors import ConfigError
from qmond.events.records import CAPTURE_MAX
from qmond.events.table import NUMBER

__all__ = ["DEFAULT_PATH", "Config", "hold", "load_config", "parse_config"]

DEFAULT_PATH: Final = Path("/etc/qmon.yaml")


def _key(parse: values.Parser, default: Any) -> Any:  # noqa: ANN401 - a dataclass field of any type
    return field(default=default, metadata={"parse": parse})


def _section(of: type) -> Any:  # noqa: ANN401 - as above
    return field(default_factory=of, metadata={"section": of})


# ---- the keys --------------------------------------------------------------------------------

_DAY: Final = 86_400

_EXCLUDE: Final = (
    "qemu-system-",
    "qemu-img",
    "qemu-io",
    "qemu-nbd",
    "qemu-ga",
    "qemu-storage-daemon",
    "qemu-bridge-helper",
    "qemu-pr-helper",
    "qemu-vmsr-helper",
    "qemu-edid",
    "qemu-keymap",
)


@dataclass(frozen=True, slots=True)
class Match:
    """Which executables are watched, by prefixes of their file names."""

    prefixes: tuple[str, ...] = _key(values.prefixes(1), ("qemu-",))
    exclude: tuple[str, ...] = _key(values.prefixes(0), _EXCLUDE)


@dataclass(frozen=True, slots=True)
class Capture:
    """How many bytes of content READ and WRITE have."""

    bytes: int = _key(values.size(0, CAPTURE_MAX), 256)


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics FREE_SUM, MMAP_SUM and ALLOC_SUM. The interval is in seconds.

    `budget` is the most allocations per second that are counted for one process.
    """

    interval: float = _key(values.seconds(0.1, 3600), 1.0)
    allocations: bool = _key(values.boolean, True)  # noqa: FBT003 - a default
    budget: int = _key(values.rate(1, 10_000_000), 20_000)


@dataclass(frozen=True, slots=True)
class Ring:
    """The ring buffer between kernel and daemon, in bytes."""

    size: int = _key(values.size(64 << 10, 1 << 30, power_of_two=True), 16 << 20)


@dataclass(frozen=True, slots=True)
class Rotate:
    """When a log file is rotated: its size in bytes, its age in seconds."""

    size: int = _key(values.size(64 << 10, 1 << 40), 64 << 20)
    age: float = _key(values.seconds(1, 366 * _DAY), float(_DAY))


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of the log is kept: number of files, bytes, age in seconds; bytes of `lives/`."""

    files: int = _key(values.integer(1, 100_000), 1000)
    bytes: int = _key(values.size(1 << 20, 1 << 50), 4 << 30)
    age: float = _key(values.seconds(1, 36_600 * _DAY), 30.0 * _DAY)
    lives: int = _key(values.size(0, 1 << 40), 256 << 20)


@dataclass(frozen=True, slots=True)
class Log:
    """The event log. `sync` is a time in seconds, or never, rotate or batch."""

    dir: Path = _key(values.absolute, Path("/var/log/qmond"))
    group: str = _key(values.group, "qmon-payload")
    rotate: Rotate = _section(Rotate)
    compress: str = _key(values.choice("zstd", "gzip", "none"), "zstd")
    compress_delay: float = _key(values.seconds(0, 366 * _DAY), 300.0)
    keep: Keep = _section(Keep)
    min_free: int = _key(values.size(0, 1 << 50), 256 << 20)
    sync: str | float = _key(values.sync, 1.0)


@dataclass(frozen=True, slots=True)
class Socket:
    """The socket for clients, its groups and limits; `client_buffer` is bytes per client."""

    path: Path = _key(values.socket_path, Path("/run/qmond/qmond.sock"))
    group: str = _key(values.group, "qmon")
    payload_group: str = _key(values.group, "qmon-payload")
    client_buffer: int = _key(values.size(64 << 10, 1 << 30), 4 << 20)
    client_timeout: float = _key(values.seconds(1, 3600), 30.0)
    max_clients: int = _key(values.integer(1, 10_000), 64)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics for Prometheus: the address, and a file that is written every `interval` seconds."""

    listen: str | None = _key(values.listen, None)
    textfile: Path | None = _key(values.text_file, None)
    interval: float = _key(values.seconds(1, 3600), 15.0)


@dataclass(frozen=True, slots=True)
class Journal:
    """Events that are sent to the system's journal, and at most how many per second."""

    events: tuple[str, ...] = _key(values.events, ())
    rate: int = _key(values.rate(1, 10_000), 100)


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration. Every key has a default."""

    match: Match = _section(Match)
    events: tuple[str, ...] = _key(values.events, values.ALL_EVENTS)
    capture: Capture = _section(Capture)
    stats: Stats = _section(Stats)
    timestamps: str = _key(values.choice("monotonic", "relative"), "monotonic")
    fields: str = _key(values.choice("full", "original"), "full")
    limits: tuple[tuple[str, int], ...] = _key(values.limits, ())
    ring: Ring = _section(Ring)
    log: Log = _section(Log)
    socket: Socket = _section(Socket)
    metrics: Metrics = _section(Metrics)
    journal: Journal = _section(Journal)
    redact: tuple[Rule, ...] = _key(values.redact, DEFAULT_RULES)
    procfs: Path = _key(values.absolute, Path("/proc"))

    @property
    def mask(self) -> int:
        """The recorded events as bits: bit N is event N of the table."""
        return sum(1 << NUMBER[name] for name in self.events)


_SHOWN_MAX: Final = 60
"""How many characters of a wrong value are shown."""
_AT_START: Final = (
    "timestamps",
    "fields",
    "ring.size",
    "log.dir",
    "log.group",
    "socket.path",
    "metrics.listen",
    "metrics.textfile",
    "metrics.interval",
    "procfs",
)
"""Keys that change only with a restart."""


def hold(config: Config, running: Config) -> tuple[Config, list[str]]:
    """Return `config` with the running values of keys that need a restart, and which differ."""
    later = [key for key in _AT_START if _value(config, key) != _value(running, key)]
    for key in later:
        config = _replaced(config, key, _value(running, key))
    return config, later


def _value(section: Any, key: str) -> Any:  # noqa: ANN401 - a section or a value
    for name in key.split("."):
        section = getattr(section, name)
    return section


def _replaced(section: Any, key: str, value: object) -> Any:  # noqa: ANN401 - as above
    name, _, rest = key.partition(".")
    inner = _replaced(getattr(section, name), rest, value) if rest else value
    return replace(section, **{name: inner})


# ---- reading ---------------------------------------------------------------------------------


def parse_config(text: str, name: str) -> Config:
    """Parse the text of a configuration file. Raises ConfigError with every fault."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        faults: list[str] = []
        config: Config = _read(Config, node, loader, _Place(name, ""), faults)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{name}:{line}: not YAML: {error.problem}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{ord(text[error.position]):04X}"
        raise ConfigError([f"{name}:{line}: not YAML: {what} must be escaped"]) from error
    except RecursionError as error:
        raise ConfigError([f"{name}: not a configuration: nested too deeply"]) from error
    finally:
        if loader is not None:
            loader.dispose()
    if faults:
        raise ConfigError(faults)
    return config


def load_config(path: Path, *, required: bool) -> Config:
    """Read a configuration file. If it does not exist and is not `required`, return the defaults.

    Raises ConfigError with every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not required:
            return Config()
        raise ConfigError([f"{path}: there is no such file"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: byte {error.start} is not UTF-8"]) from error
    return parse_config(text, str(path))


@dataclass(frozen=True, slots=True)
class _Place:
    """The file and key that are being parsed, for messages."""

    file: str
    key: str

    def below(self, key: str) -> _Place:
        shown = key if key.isprintable() else repr(key)
        return _Place(self.file, f"{self.key}.{shown}" if self.key else shown)

    def fault(self, mark: yaml.Mark, what: str) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{mark.line + 1}: {key}{what}"


def _read(
    of: type, node: yaml.Node | None, loader: yaml.SafeLoader, place: _Place, faults: list[str]
) -> Any:  # noqa: ANN401 - an `of`
    """Parse one section. Faults are appended, and the default stands in for a faulty value."""
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return of()
    known = {entry.name: entry for entry in fields(of)}
    if not isinstance(node, yaml.MappingNode):
        what = f"{_found(node)}; expected keys: {', '.join(known)}"
        faults.append(place.fault(node.start_mark, what))
        return of()
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            what = f"the key {_found(key_node)}; expected one of {', '.join(known)}"
            faults.append(place.fault(key_node.start_mark, what))
            continue
        key = key_node.value
        entry, here = known.get(key), place.below(key)
        if entry is None:
            what = f"unknown key; expected one of {', '.join(known)}"
            faults.append(here.fault(key_node.start_mark, what))
        elif key in seen:
            faults.append(here.fault(key_node.start_mark, "given twice"))
        elif "section" in entry.metadata:
            values[key] = _read(entry.metadata["section"], value_node, loader, here, faults)
        else:
            told = len(faults)
            value = _parsed(entry.metadata["parse"], value_node, loader, here, faults)
            if len(faults) == told:
                values[key] = value
        seen.add(key)
    return of(**values)


def _parsed(
    parse: values.Parser,
    node: yaml.Node,
    loader: yaml.SafeLoader,
    place: _Place,
    faults: list[str],
) -> Any:  # noqa: ANN401 - what the parser returns
    """Parse one value. Its faults are appended; then what is returned means nothing."""
    try:
        value = loader.construct_object(node, deep=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or node.start_mark
        faults.append(place.fault(mark, f"not YAML: {error.problem}"))
        return None
    except (ValueError, OverflowError) as error:  # a date, or a number
        faults.append(place.fault(node.start_mark, f"{_found(node)}, which is not valid: {error}"))
        return None
    try:
        return parse(value)
    except values.ItemsError as error:
        faults += [_item_fault(fault, node, loader, place) for fault in error.faults]
    except ValueError as error:
        faults.append(place.fault(node.start_mark, f"{_found(node)}; expected {error}"))
    return None


def _item_fault(
    fault: values.ItemFault, node: yaml.Node, loader: yaml.SafeLoader, place: _Place
) -> str:
    """Return the message of a fault in an item of a list or mapping."""
    for step in fault.path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[step]
            continue
        for key, value in node.value:
            if loader.construct_object(key, deep=True) == step:
                node, place = key if fault.is_key else value, place.below(str(step))
    if fault.is_key:
        return place.fault(node.start_mark, f"unknown key; expected {fault.expected}")
    return place.fault(node.start_mark, f"{_found(node)}; expected {fault.expected}")


def _found(node: yaml.Node) -> str:
    """Return what a node is, for a message: a text in quotes, all else without."""
    if isinstance(node, yaml.MappingNode):
        return "is a mapping"
    if isinstance(node, yaml.SequenceNode):
        count = len(node.value)
        return f"is a list of {count}" if count else "is an empty list"
    assert isinstance(node, yaml.ScalarNode)  # noqa: S101 - YAML has no other
    kind = node.tag.rpartition(":")[2]
    if kind == "null" or not node.value:
        return "is empty"
    shown = repr(node.value if len(node.value) <= _SHOWN_MAX else f"{node.value[:_SHOWN_MAX]}…")
    if kind == "str":
        return f"is the text {shown}" if node.style else f"is {shown}"
    return f"is {shown[1:-1]}"
