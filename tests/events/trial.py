"""Three events more, of known shapes: test_trial.py runs this with their rows in the tables.

Nothing else of qmond is changed, and none of it compiled anew.
"""

import json
import socket
import struct
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_encode import lines, record

import qmond
from qmond.bpf.header import header
from qmond.config.values import ALL_EVENTS, LIMITABLE
from qmond.ctl import main
from qmond.ctl.formats.lines import Reading
from qmond.ctl.formats.table import COLUMNS
from qmond.ctl.show import render, strace
from qmond.events import calls, schema
from qmond.events.records import Flag, layout_format
from qmond.events.table import NUMBER
from qmond.server.filters import Filter
from qmond.server.protocol import parse_selection

IPV4 = struct.pack("=H", socket.AF_INET) + b"\x00\x50\xc0\x00\x02\x07" + bytes(8)
UNIX = struct.pack("=H", socket.AF_UNIX) + b"/\xff\0junk"
TRIALS = [
    (
        record("TRIAL_ADDRESS", IPV4, a=3),
        {"fd": 3, "addr": "192.0.2.7:80"},
        'trial_address(3, "192.0.2.7:80", ?) = ?',
    ),
    (
        record("TRIAL_ADDRESS", UNIX, a=2**32 - 1),
        {"fd": -1, "addr": "unix:/\ufffd", "addr_b64": "dW5peDov/w=="},
        'trial_address(-1, "unix:/\ufffd", ?) = ?',
    ),
    (
        record("TRIAL_ADDRESS", flags=Flag.COUNTED | Flag.FAULT),
        {"fd": 0, "addr": "family:none", "fault": True},
        'trial_address(0, "family:none", ?) = ?',
    ),
    (record("TRIAL_PATH", b"/x"), {"where": "/x"}, 'trial_path("/x") = ?'),
    (
        record("TRIAL_NUMBERS", a=7, b=5),
        {"fd": 7, "backlog": 5},
        "trial_numbers(7, 5) = ?",
    ),
]


def test_the_rows_are_there_and_nothing_else_has_changed() -> None:
    assert Path(qmond.__file__).parents[1] != Path(__file__).parents[2]
    assert list(NUMBER)[-3:] == ["TRIAL_ADDRESS", "TRIAL_PATH", "TRIAL_NUMBERS"]


@pytest.mark.parametrize(("raw", "keys", "_told"), TRIALS)
def test_its_records_become_lines(raw: bytes, keys: dict[str, Any], _told: str) -> None:
    (line,) = lines(raw)
    own = {
        key: line[key] for key in line if key not in {"ts", "event", "pid", "time", "seq", "tid"}
    }
    assert own == keys
    jsonschema.validate(line, schema.schema())
    (short,) = lines(raw, fields="original")
    assert tuple(short) == ("ts", "event", "pid", *(key for key in keys if key in short))
    jsonschema.validate(short, schema.schema())


def test_its_calls_are_given_to_the_programs_of_their_shape() -> None:
    text = header()
    for host in calls.HOSTS:
        rows = calls.pack(host)
        for number, (name, program, arguments) in {
            509: ("TRIAL_ADDRESS", "address", (1, 2)),
            510: ("TRIAL_PATH", "path", (0, 0xFFFF)),
            511: ("TRIAL_NUMBERS", "integers", (0, 1)),
        }.items():
            assert f"#define EVENT_{name} {NUMBER[name]}\n" in text
            row = layout_format(calls.CALL).unpack(rows[number])
            assert (row[0], calls.HANDLERS[row[2]], row[4:]) == (NUMBER[name], program, arguments)


@pytest.mark.parametrize(("raw", "keys", "told"), TRIALS)
def test_it_is_shown(raw: bytes, keys: dict[str, Any], told: str) -> None:
    (line,) = lines(raw)
    assert strace.line(line).endswith(f" {told}")
    shown = render.line(line, colour=True)
    assert f"\033[35m{line['event']}" in shown
    assert all(f" {key}=" in shown for key in keys if not key.endswith("_b64"))


@pytest.mark.parametrize(("raw", "keys", "_told"), TRIALS)
def test_it_can_be_chosen_and_read(raw: bytes, keys: dict[str, Any], _told: str) -> None:
    (line,) = lines(raw)
    text = json.dumps(line).encode() + b"\n"
    every = (1 << len(NUMBER)) - 1
    for key, value in keys.items():
        where = f"{key} == {json.dumps(value)}"
        args = {"events": [line["event"]], "where": where, "pids": [42], "fields": [key]}
        chosen = Filter(parse_selection(args, every, 0))(text)
        assert chosen is not None
        assert json.loads(chosen) == {key: value}
        assert key in COLUMNS
    told: list[str] = []
    assert Reading(told.append).parse(text, Path("x"), 1) == line
    assert told == []


@pytest.mark.parametrize("name", ["TRIAL_ADDRESS", "TRIAL_PATH", "TRIAL_NUMBERS"])
def test_it_is_documented(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"\n### {name}\n" in schema.page()
    assert name in ALL_EVENTS
    assert name in LIMITABLE
    assert main(["events", name]) == 0
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out.count(name) >= 2
