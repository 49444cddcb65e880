"""The configuration: defaults, values, and every fault with its place."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from qmond.config.keys import Config, load_config, parse_config
from qmond.errors import ConfigError
from qmond.units import parse_seconds

SHIPPED = Path(__file__).parents[2] / "etc" / "qmon.yaml"


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "qmon.yaml")
    return caught.value.faults


def test_the_shipped_file_has_every_key_with_its_default() -> None:
    text = SHIPPED.read_text()
    assert parse_config(text, "etc/qmon.yaml") == Config()
    keys = [
        line.strip().split(":")[0]
        for line in text.splitlines()
        if not line.lstrip().startswith(("#", "-"))
    ]
    for key in [
        "prefixes",
        "exclude",
        "events",
        "bytes",
        "interval",
        "allocations",
        "timestamps",
        "fields",
        "size",
        "dir",
        "files",
        "path",
        "client_buffer",
        "max_clients",
        "procfs",
    ]:
        assert key in keys


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_config("", "x") == parse_config("# nothing\n", "x") == Config()


def test_values_have_units() -> None:
    config = parse_config(
        "ring: {size: 1M}\ncapture: {bytes: 4K}\nstats: {interval: 250ms}\nevents: [WRITE, READ]",
        "x",
    )
    assert (config.ring.size, config.capture.bytes) == (1 << 20, 4096)
    assert config.stats.interval == 0.25
    assert config.events == ("READ", "WRITE")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400), ("1d1ms", 86400.001), ("30ms", 0.03), ("1.5m", 90)]
)
def test_a_time_may_have_parts(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "30m1h", "5m5m", "1h 30m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time such as"):
        parse_seconds(text)


def test_groups_stand_for_their_events() -> None:
    config = parse_config(
        "events: [default, -SCHED_SWITCH, -loss]\n"
        "journal: {events: [identity, connect]}\n"
        "limits: {READ: 7/s, file: 5/s, all: 9/s, sched: 3/s}\n"
        "redact: [{pattern: x, events: [process, -EXEC, READ]}]\n",
        "x",
    )
    gone = {"SCHED_SWITCH", "LOST", "SUPPRESSED"}
    assert config.events == tuple(name for name in Config().events if name not in gone)
    assert config.journal.events == ("CONNECT", "SETUID")
    rates = dict(config.limits)
    assert (rates["READ"], rates["WRITE"], rates["CONNECT"], rates["SCHED_SWITCH"]) == (7, 5, 9, 3)
    assert config.redact[0].events == ("READ",)
    assert parse_config("limits: {sched: 3/s}", "x").limits == (("SCHED_SWITCH", 3),)


def test_every_fault_is_told_at_once_with_its_line() -> None:
    text = (
        "ring:\n  size: 5M\n  colour: red\nfields: some\nlog: here\nsocket:\n  max_clients: true\n"
    )
    assert faults(text) == [
        "qmon.yaml:2: ring.size: is '5M'; expected a power of two from 64K to 1G",
        "qmon.yaml:3: ring.colour: unknown key; expected one of size",
        "qmon.yaml:4: fields: is 'some'; expected full or original",
        (
            "qmon.yaml:5: log: is 'here'; expected keys: "
            "dir, group, rotate, compress, compress_delay, keep, min_free, sync"
        ),
        "qmon.yaml:7: socket.max_clients: is true; expected a whole number from 1 to 10000",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("events: [READ, REED]", "is 'REED'; expected an event or a group, such as READ"),
        ("events: [READ, 5]", "is 5; expected an event or a group, one of all, default"),
        ("events: [READ, -file]", "is a list of 2; expected names that leave an event"),
        ("events: [DROPPED]", "is 'DROPPED'; expected an event or a group"),
        ("limits: {loss: 5/s}", "unknown key; expected events or groups that may be limited"),
        ("limits: {-READ: 5/s}", "unknown key; expected events or groups that may be limited"),
        ("limits: {file: 5}", "limits.file: is 5; expected a rate such as"),
        ("redact: [{pattern: x, events: [sched]}]", "is 'sched'; expected an event or a group"),
        ("events: none", "all, or a list of event names"),
        ("capture: {bytes: 17K}", "a size from 0 to 16K"),
        ("capture: {bytes: -1}", "a size such as"),
        ("stats: {interval: 10}", "a time such as"),
        ("stats: {interval: 1ms}", "a time from 0.1s to 3600s"),
        ("stats: {allocations: 1}", "true or false"),
        ("match: {prefixes: []}", "a list of 1 to 16"),
        ("match: {prefixes: [a/b]}", "is 'a/b'; expected a file name prefix of 1 to 32 bytes"),
        ("match: {exclude: qemu-img}", "a list of 0 to 16"),
        ("log: {dir: relative}", "an absolute path"),
        ("socket: {path: /" + "x" * 101 + "}", "at most 100 bytes"),
        ("fields: full\nfields: full", "given twice"),
        ("- a list", "is a list of 1; expected keys: match, events"),
        ("? [1]\n: 2", "the key is a list of 1; expected one of match"),
        ("a: [", "not YAML"),
        ("a: \x07", "not YAML"),
        ("events: !!python/object:os.system {}", "not YAML"),
    ],
)
def test_a_wrong_value_says_what_was_expected(text: str, what: str) -> None:
    found = faults(text)
    assert len(found) == 1
    assert what in found[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "events:\n  - READ\n  - REED\n  - [1]\n  -\n",
            [
                "3: events: is 'REED'; expected an event or a group, such as READ",
                "4: events: is a list of 1; expected an event or a group, one of all",
                "5: events: is empty; expected an event or a group, one of all",
            ],
        ),
        (
            "match:\n  prefixes:\n    - qemu-\n    - 7\n    - ''\n    - {a: b}\n",
            [
                "4: match.prefixes: is 7; expected a text",
                "5: match.prefixes: is empty; expected a file name prefix",
                "6: match.prefixes: is a mapping; expected a text",
            ],
        ),
        ("match: {prefixes: []}", ["1: match.prefixes: is an empty list; expected a list of 1 to"]),
        (
            "limits:\n  READ: 5\n  FLY: 5/s\n  READ: 6/s\n",
            ["3: limits.FLY: unknown key; expected events or groups that may be limited: "],
        ),
        (
            "limits:\n  READ: 5\n  WRITE: 0/s\n",
            [
                "2: limits.READ: is 5; expected a rate such as 1000/s",
                "3: limits.WRITE: is '0/s'; expected a rate from 1/s to ",
            ],
        ),
        (
            "redact:\n  - ok\n  - (x\n  - 5\n  - pattern: y\n    colour: red\n",
            [
                "3: redact: is '(x'; expected a pattern of RE2: missing ): (x",
                "4: redact: is 5; expected a pattern, or a mapping of pattern, events, guest, path",
                "6: redact.colour: unknown key; expected keys: pattern, events, guest, path",
            ],
        ),
        (
            "redact:\n  - pattern: [x]\n    guest: 1\n    events:\n      - READ\n      - EXIT\n",
            [
                "2: redact.pattern: is a list of 1; expected a text",
                "3: redact.guest: is 1; expected a text",
                "6: redact.events: is 'EXIT'; expected an event or a group",
            ],
        ),
        ("redact:\n  - {guest: x}\n", ["2: redact: is a mapping; expected a mapping with a pat"]),
        ("redact: ['x|']", ["1: redact: is the text 'x|'; expected a pattern of RE2: it matches"]),
        ("log:\n  compress: no", ["2: log.compress: is no; expected zstd or gzip or none"]),
        ("socket: {max_clients: '5'}", ["1: socket.max_clients: is the text '5'; expected"]),
        ("log:\n  group: 2026-01-01", ["2: log.group: is 2026-01-01; expected the name"]),
        ("fields:\n", ["1: fields: is empty; expected full or original"]),
        ("fields: 2026-13-01\nring: 1", ["1: fields: is 2026-13-01, which is not valid: month",
                                         "2: ring: is 1; expected keys: size"]),
        ("fields: !!int x", ["1: fields: is x, which is not valid: "]),
        ("fields: !x y\nprocfs: 1", ["1: fields: not YAML: could not determine a constructor",
                                     "2: procfs: is 1; expected an absolute path"]),
        ("fields: " + "x" * 999, [f"1: fields: is '{'x' * 60}…'; expected full or original"]),
        ('procfs: "/\\ud800"', ["1: procfs: is the text '/\\ud800'; expected a text"]),
        ("# é\n\na: \x07", ["3: not YAML: the character U+0007 must be escaped"]),
        ('"a\\e[2J": 1', ["1: 'a\\x1b[2J': unknown key; expected one of match"]),
        ("stats: {interval: ٣s}", ["1: stats.interval: is '٣s'; expected a time such as 250ms"]),
        ("[" * 5000, [" not a configuration: nested too deeply"]),
    ],
)  # fmt: skip
def test_a_fault_names_the_line_the_key_and_the_kind_of_the_very_item(
    text: str, told: list[str]
) -> None:
    found = faults(text)
    assert len(found) == len(told)
    for fault, beginning in zip(found, told, strict=True):
        assert fault.startswith(f"qmon.yaml:{beginning}"), fault


def keys_of(section: type, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for entry in fields(section):
        if "section" in entry.metadata:
            yield from keys_of(entry.metadata["section"], (*above, entry.name))
        else:
            yield (*above, entry.name)


VALUES = [
    "", "true", "-1", "7", "1.5", ".nan", "no such", "'7'", "2026-01-01", "!!binary eA==", "[]",
    "[7]", "[[x]]", "[{a: b}]", "{}", "{a: b}", "{7: 8}", "!!set {a}", "'\\0'", '"\\ud800"', "~",
]  # fmt: skip


@pytest.mark.parametrize("key", list(keys_of(Config)), ids=".".join)
def test_whatever_yaml_gives_for_a_key_is_taken_or_told(key: tuple[str, ...]) -> None:
    """In the words of the file, not of Python."""
    above = "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(key[:-1]))
    for value in VALUES:
        text = f"{above}{'  ' * (len(key) - 1)}{key[-1]}: {value}\n"
        try:
            parse_config(text, "f")
        except ConfigError as error:
            for fault in error.faults:
                assert fault.startswith(f"f:{len(key)}: {'.'.join(key)}"), text
                assert re.search(r": (is .*|unknown key); expected [a-z]", fault), fault
                assert not re.search(r"b'|None|codec|\bdict\b|datetime|object|True|tuple", fault)


def test_a_missing_file_is_a_fault_only_where_it_was_asked_for(tmp_path: Path) -> None:
    assert load_config(tmp_path / "none", required=False) == Config()
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none", required=True)
    (tmp_path / "latin").write_bytes(b"events: \xff")
    with pytest.raises(ConfigError, match="latin:1: byte 8 is not UTF-8"):
        load_config(tmp_path / "latin", required=True)
