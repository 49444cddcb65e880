"""The table against itself, and against all that is made from it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qmond.bpf.header import STRUCTS, header
from qmond.ctl.formats.table import COLUMNS
from qmond.events import calls, schema
from qmond.events.records import layout_format
from qmond.events.table import BY_NAME, EVENTS, NUMBER
from qmond.server.arguments import KEYS

DOCS = Path(__file__).parents[2] / "docs"
ORIGINAL = {
    "START": "ts event message",
    "END": "ts event message",
    "TRACK_OPENAT": "ts event pid bin file",
    "TRACK_FORK": "ts event parent child",
    "EXEC": "ts event pid filename",
    "READ": "ts event pid fd buf",
    "WRITE": "ts event pid fd buf",
    "READLINKAT": "ts event pid path",
    "SOCKET": "ts event pid domain type",
    "CONNECT": "ts event pid addr",
    "SENDTO": "ts event pid len",
    "RECVFROM": "ts event pid size",
    "DUP2": "ts event pid oldfd newfd",
    "WAIT4_EXITED": "ts event pid reaped_child",
    "FREE_SUM": "ts pid evt meta",
    "MMAP_SUM": "ts pid evt meta",
    "ALLOC_SUM": "ts pid evt meta",
    "SCHED_SWITCH": "ts event prev_pid next_pid",
    "SIGNAL_GENERATE": "ts event pid sig",
    "SETUID": "ts event pid uid",
    "MPROTECT": "ts event pid read write exec",
    "MADVICE": "ts event pid advice",
}
"""The original interface, typed off its description: key order included."""


def test_has_the_original_events_with_their_keys_in_order() -> None:
    keys = {event.name: schema.original_keys(event) for event in EVENTS if not event.own}
    assert keys == {name: tuple(text.split()) for name, text in ORIGINAL.items()}


def test_added_keys_stand_after_the_originals() -> None:
    for event in EVENTS:
        added = [field.added for field in event.fields]
        assert added == sorted(added), event.name


def test_events_are_told_with_the_keys_that_their_lines_have() -> None:
    """As the schema has them, which real lines are held against."""
    keys = {row["name"]: {field["key"] for field in row["fields"]} for row in schema.table()}
    assert {"time", "seq", "tid", "arch", "guest"} <= keys["READ"]
    assert keys["END"].isdisjoint({"tid", "arch", "guest"})
    assert "tid" not in keys["EXIT"]
    assert {"arch", "guest"} <= keys["EXIT"]
    branches = {
        branch["properties"].get("event", branch["properties"].get("evt"))["const"]: branch
        for branch in schema.schema()["oneOf"]
    }
    for name, row in keys.items():
        assert row - {"redacted"} <= branches[name]["properties"].keys()


def test_whoever_names_keys_has_all_that_a_line_can_have() -> None:
    """Filters, tables and the schema, which real lines are held against."""
    found = {key for branch in schema.schema()["oneOf"] for key in branch["properties"]}
    assert found == KEYS == {*COLUMNS, "evt"}


def test_events_fit_into_the_mask() -> None:
    assert len(EVENTS) <= 64
    assert len(BY_NAME) == len(EVENTS) == len(NUMBER)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: run `sudo script/test`")
def test_c_structs_lie_in_memory_as_the_formats_say(tmp_path: Path) -> None:
    """The compiler is the judge of the header that qmon.c gets."""
    lines = ["#include <stddef.h>", "#include <stdint.h>", "#include <stdio.h>"]
    lines += [f"typedef uint{bits}_t u{bits};" for bits in (16, 32, 64)]
    lines += [header(), "int main(void) {"]
    expected = {}
    for name, layout in STRUCTS.items():
        for index, (member, _) in enumerate(layout):
            expected[f"{name}.{member}"] = layout_format(layout[:index]).size
            lines.append(f'printf("{name}.{member} %zu\\n", offsetof(struct {name}, {member}));')
        expected[name] = layout_format(layout).size
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
    source, program = tmp_path / "offsets.c", tmp_path / "offsets"
    source.write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run(["cc", "-Wall", "-Werror", "-o", program, source], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    found = {name: int(at) for name, at in (line.split() for line in printed.splitlines())}
    assert found == expected


def test_the_reference_page_and_the_schema_are_those_of_the_table() -> None:
    assert (DOCS / "events.md").read_text() == schema.page(), "run `make generate`"
    found = json.loads((DOCS / "events.schema.json").read_text())
    assert found == schema.schema(), "run `make generate`"


def test_every_text_of_the_page_is_translated() -> None:
    """By its English words: where these change, the translation has no text, and is looked at."""
    english: dict[str, str] = {}
    schema.page(lambda text: english.setdefault(text, text))
    texts = schema.translation(DOCS / "events.zh-CN.yaml")
    assert english.keys() - texts.keys() == set(), "translate these in docs/events.zh-CN.yaml"
    assert texts.keys() - english.keys() == set(), "no longer on the page: docs/events.zh-CN.yaml"
    untranslated = [text for text, said in texts.items() if not re.search("[\u4e00-\u9fff]", said)]
    assert untranslated == []


def test_the_chinese_page_is_that_of_the_table() -> None:
    texts = schema.translation(DOCS / "events.zh-CN.yaml")
    page = (DOCS / "events.zh-CN.md").read_text()
    assert page == schema.page(texts.__getitem__), "run `make generate`"


@pytest.mark.parametrize("host", calls.HOSTS)
def test_calls_have_one_number_each_below_the_limit(host: str) -> None:
    numbers = [number for call in calls.CALLS if (number := getattr(call, host)) != 0xFFFF]
    assert len(numbers) == len(set(numbers))
    assert max(numbers) < calls.LIMIT
    assert len(calls.pack(host)) == len(numbers)


def test_call_numbers_are_the_c_librarys() -> None:
    """Where its headers are here: asm/unistd.h of x86-64, asm-generic's for aarch64."""
    hosts = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
    }
    checked = 0
    for host, file in hosts.items():
        if not file.exists():
            continue
        names = {}
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] == ["#define"] and len(words) == 3 and words[2].isdecimal():
                names[words[1].removeprefix("__NR_").removeprefix("__NR3264_")] = int(words[2])
        for call in calls.CALLS:
            assert names.get(call.name, 0xFFFF) == getattr(call, host), (host, call.name)
            checked += 1
    if not checked:
        pytest.skip("no libc6-dev: run `sudo script/test`")
