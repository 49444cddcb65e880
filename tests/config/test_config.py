"""The configuration: defaults, values, and every fault with its place."""

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
        "qmon.yaml:7: socket.max_clients: is 'true'; expected a whole number from 1 to 10000",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("events: [READ, REED]", "unknown: REED"),
        ("events: [READ, 5]", "event names; unknown: 5; there are the groups all, default"),
        ("events: [READ, -file]", "event names; no event is left: READ, -file"),
        ("events: [DROPPED]", "unknown: DROPPED"),
        ("limits: {loss: 5/s}", "events that may be limited; unknown: loss"),
        ("limits: {-READ: 5/s}", "names of events and groups; not -READ"),
        ("limits: {file: 5}", "for each event a rate such as"),
        ("redact: [{pattern: x, events: [sched]}]", "events with a text; unknown: sched"),
        ("events: none", "all, or a list of event names"),
        ("capture: {bytes: 17K}", "a size from 0 to 16K"),
        ("capture: {bytes: -1}", "a size such as"),
        ("stats: {interval: 10}", "a time such as"),
        ("stats: {interval: 1ms}", "a time from 0.1s to 3600s"),
        ("stats: {allocations: 1}", "true or false"),
        ("match: {prefixes: []}", "a list of 1 to 16"),
        ("match: {prefixes: [a/b]}", "a list of 1 to 16"),
        ("match: {exclude: qemu-img}", "a list of 0 to 16"),
        ("log: {dir: relative}", "an absolute path"),
        ("socket: {path: /" + "x" * 101 + "}", "at most 100 bytes"),
        ("fields: full\nfields: full", "given twice"),
        ("- a list", "is a list; expected keys"),
        ("? [1]\n: 2", "unknown key"),
        ("a: [", "not YAML"),
        ("a: \x07", "not YAML"),
        ("events: !!python/object:os.system {}", "not YAML"),
    ],
)
def test_a_wrong_value_says_what_was_expected(text: str, what: str) -> None:
    found = faults(text)
    assert len(found) == 1
    assert what in found[0]


def test_a_missing_file_is_a_fault_only_where_it_was_asked_for(tmp_path: Path) -> None:
    assert load_config(tmp_path / "none", required=False) == Config()
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none", required=True)
    (tmp_path / "latin").write_bytes(b"events: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_config(tmp_path / "latin", required=True)
