"""The configuration file: YAML in, frozen dataclasses out, every fault told at once.

A key is declared once, as a field of its section: the parser takes the value as YAML has it, and
raises ValueError with what was expected instead. `etc/qmon.yaml` explains each to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from qmond.bpf.header import PATTERN_MAX, PATTERN_WORDS
from qmond.errors import ConfigError
from qmond.events import NUMBER, PUBLIC
from qmond.records import CAPTURE_MAX
from qmond.units import parse_rate, parse_seconds, parse_size

__all__ = ["DEFAULT_PATH", "Config", "load_config", "parse_config"]

DEFAULT_PATH: Final = Path("/etc/qmon.yaml")

_Parser = Callable[[Any], Any]


def _key(parse: _Parser, default: Any) -> Any:  # noqa: ANN401 - a dataclass field of any type
    return field(default=default, metadata={"parse": parse})


def _section(of: type) -> Any:  # noqa: ANN401 - as above
    return field(default_factory=of, metadata={"section": of})


# ---- parsers ---------------------------------------------------------------------------------


def _choice(*choices: str) -> _Parser:
    def parse(value: object) -> object:
        if value not in choices:
            raise ValueError(" or ".join(choices))
        return value

    return parse


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _integer(least: int, most: int) -> _Parser:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return parse


def _size(least: int, most: int, *, power_of_two: bool = False) -> _Parser:
    def parse(value: object) -> int:
        size = parse_size(value)
        if not least <= size <= most or (power_of_two and size.bit_count() != 1):
            kind = "a power of two" if power_of_two else "a size"
            raise ValueError(f"{kind} from {_short(least)} to {_short(most)}")
        return size

    return parse


def _short(size: int) -> str:
    for power, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size and size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return str(size)


def _seconds(least: float, most: float) -> _Parser:
    def parse(value: object) -> float:
        seconds = parse_seconds(value)
        if not least <= seconds <= most:
            raise ValueError(f"a time from {least:g}s to {most:g}s")
        return seconds

    return parse


def _rate(least: int, most: int) -> _Parser:
    def parse(value: object) -> int:
        rate = parse_rate(value)
        if not least <= rate <= most:
            raise ValueError(f"a rate from {least}/s to {most}/s")
        return rate

    return parse


def _absolute(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("an absolute path")
    return Path(value)


def _socket_path(value: object) -> Path:
    path = _absolute(value)
    if len(str(path).encode()) > 100:  # sun_path has 108 bytes; a lock's name stands beside it
        raise ValueError("a path of at most 100 bytes")
    return path


def _prefixes(least: int) -> _Parser:
    longest = PATTERN_WORDS * 8

    def parse(value: object) -> tuple[str, ...]:
        rows = value if isinstance(value, list) else [None]
        if not least <= len(rows) <= PATTERN_MAX or not all(
            isinstance(row, str) and 0 < len(row.encode()) <= longest and not set("/\0") & set(row)
            for row in rows
        ):
            raise ValueError(
                f"a list of {least} to {PATTERN_MAX} file name prefixes of 1 to {longest} bytes"
            )
        return tuple(rows)

    return parse


def _events(value: object) -> tuple[str, ...]:
    if value == "all":
        return ALL_EVENTS
    if not isinstance(value, list):
        raise ValueError("all, or a list of event names")
    unknown = [name for name in value if name not in ALL_EVENTS]
    if unknown:
        names = ", ".join(ALL_EVENTS)
        raise ValueError(f"event names; unknown: {', '.join(map(str, unknown))}; known: {names}")
    return tuple(name for name in ALL_EVENTS if name in value)


def _limits(value: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict):
        raise ValueError("a mapping of event names to rates, such as SCHED_SWITCH: 1000/s")
    wrong = [str(name) for name in value if name not in LIMITABLE]
    if wrong:
        names = ", ".join(LIMITABLE)
        raise ValueError(f"events that may be limited: {names}; not: {', '.join(wrong)}")
    rate = _rate(1, 1_000_000_000)
    try:
        return tuple((name, rate(value[name])) for name in LIMITABLE if name in value)
    except ValueError as error:
        raise ValueError(f"for each event {error}") from error


# ---- the keys --------------------------------------------------------------------------------

LIMITABLE: Final = tuple(
    event.name
    for event in PUBLIC
    if event.source.startswith("s") and not event.state and not event.statistic
)
"""What the kernel side makes, and the process table does not live on."""
ALL_EVENTS: Final = tuple(event.name for event in PUBLIC if event.name != "DROPPED")

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
    """Which executables are watched, by how their file names begin."""

    prefixes: tuple[str, ...] = _key(_prefixes(1), ("qemu-",))
    exclude: tuple[str, ...] = _key(_prefixes(0), _EXCLUDE)


@dataclass(frozen=True, slots=True)
class Capture:
    """How much content READ and WRITE carry."""

    bytes: int = _key(_size(0, CAPTURE_MAX), 256)


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics: FREE_SUM, MMAP_SUM, ALLOC_SUM. The interval is in seconds.

    `budget` is how many allocations a second one process is counted for.
    """

    interval: float = _key(_seconds(0.1, 3600), 1.0)
    allocations: bool = _key(_boolean, True)  # noqa: FBT003 - a default
    budget: int = _key(_rate(1, 10_000_000), 20_000)


@dataclass(frozen=True, slots=True)
class Ring:
    """The buffer between kernel and daemon, in bytes."""

    size: int = _key(_size(64 << 10, 1 << 30, power_of_two=True), 8 << 20)


@dataclass(frozen=True, slots=True)
class Rotate:
    """When a log file is full, in bytes."""

    size: int = _key(_size(64 << 10, 1 << 40), 64 << 20)


@dataclass(frozen=True, slots=True)
class Keep:
    """How many rotated log files stay."""

    files: int = _key(_integer(1, 100_000), 16)


@dataclass(frozen=True, slots=True)
class Log:
    """The event log."""

    dir: Path = _key(_absolute, Path("/var/log/qmond"))
    rotate: Rotate = _section(Rotate)
    keep: Keep = _section(Keep)


@dataclass(frozen=True, slots=True)
class Socket:
    """The socket for clients; the buffer is one client's, in bytes."""

    path: Path = _key(_socket_path, Path("/run/qmond/qmond.sock"))
    client_buffer: int = _key(_size(64 << 10, 1 << 30), 4 << 20)
    max_clients: int = _key(_integer(1, 10_000), 64)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; every key has a default."""

    match: Match = _section(Match)
    events: tuple[str, ...] = _key(_events, ALL_EVENTS)
    capture: Capture = _section(Capture)
    stats: Stats = _section(Stats)
    timestamps: str = _key(_choice("monotonic", "relative"), "monotonic")
    fields: str = _key(_choice("full", "original"), "full")
    limits: tuple[tuple[str, int], ...] = _key(_limits, ())
    ring: Ring = _section(Ring)
    log: Log = _section(Log)
    socket: Socket = _section(Socket)
    procfs: Path = _key(_absolute, Path("/proc"))

    @property
    def mask(self) -> int:
        """The events as bits, by their number in the table."""
        return sum(1 << NUMBER[name] for name in self.events)


# ---- reading ---------------------------------------------------------------------------------


def parse_config(text: str, name: str) -> Config:
    """Return the configuration that a file's text says. Raises ConfigError with every fault."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        faults: list[str] = []
        config: Config = _read(Config, node, loader, _Place(name, ""), faults)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{name}:{line}: not YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}:1: not YAML: {str(error).splitlines()[0]}"]) from error
    finally:
        if loader is not None:
            loader.dispose()
    if faults:
        raise ConfigError(faults)
    return config


def load_config(path: Path, *, required: bool) -> Config:
    """Read a configuration file; where it is not `required`, its absence means the defaults."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not required:
            return Config()
        raise ConfigError([f"{path}: there is no such file"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: byte {error.start} is not UTF-8"]) from error
    return parse_config(text, str(path))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the file a fault is."""

    file: str
    key: str

    def below(self, key: str) -> _Place:
        return _Place(self.file, f"{self.key}.{key}" if self.key else key)

    def fault(self, node: yaml.Node, what: str) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{node.start_mark.line + 1}: {key}{what}"


def _read(
    of: type, node: yaml.Node | None, loader: yaml.SafeLoader, place: _Place, faults: list[str]
) -> Any:  # noqa: ANN401 - an `of`
    """Return one section; where it has faults, they are added and the defaults stand in."""
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return of()
    if not isinstance(node, yaml.MappingNode):
        faults.append(place.fault(node, f"{_found(node)}; expected keys: {', '.join(_keys(of))}"))
        return of()
    values: dict[str, Any] = {}
    seen: set[str] = set()
    known = {entry.name: entry for entry in fields(of)}
    for key_node, value_node in node.value:
        key = str(getattr(key_node, "value", key_node.tag))
        entry, here = known.get(key), place.below(key)
        if entry is None:
            faults.append(here.fault(key_node, f"unknown key; expected one of {', '.join(known)}"))
        elif key in seen:
            faults.append(here.fault(key_node, "given twice"))
        elif "section" in entry.metadata:
            values[key] = _read(entry.metadata["section"], value_node, loader, here, faults)
        else:
            try:
                values[key] = entry.metadata["parse"](
                    loader.construct_object(value_node, deep=True)
                )
            except ValueError as error:
                faults.append(here.fault(value_node, f"{_found(value_node)}; expected {error}"))
        seen.add(key)
    return of(**values)


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"is {node.value!r}" if node.value else "is empty"
    return "is a list" if isinstance(node, yaml.SequenceNode) else "is a mapping"


def _keys(of: type) -> Iterator[str]:
    return (entry.name for entry in fields(of) if is_dataclass(of))
