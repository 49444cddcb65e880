"""The configurations for log shippers: what they read, and that none reads what it writes.

rsyslog and syslog-ng are run with theirs in tests/root/test_shippers.py; the other two are not
packaged for Debian 12: their files are only looked at here.
"""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from qmond.log.files import new_name
from qmond.lognames import LIVE

SHIPPERS = Path(__file__).parents[1] / "packaging/shippers"
SHIPPED = "/var/log/qmond-shipped.log"
DIRECTORY = Path("/var/log/qmond")
LONGEST_LINE = 256 << 10


def rsyslog() -> tuple[list[str], int, str]:
    """Return which files are read, how long a line may be, and what is written; so do all four."""
    text = (SHIPPERS / "rsyslog.conf").read_text()
    (read,) = re.findall(r'^    file="(.*)"$', text, re.MULTILINE)
    (written,) = re.findall(r'^        file="(.*)"$', text, re.MULTILINE)
    (size,) = re.findall(r'^global\(maxMessageSize="(\d+)k"\)$', text, re.MULTILINE)
    return [read], int(size) << 10, written


def syslog_ng() -> tuple[list[str], int, str]:
    text = (SHIPPERS / "syslog-ng.conf").read_text()
    (directory,) = re.findall(r'^ +base-dir\("(.*)"\)$', text, re.MULTILINE)
    (pattern,) = re.findall(r'^ +filename-pattern\("(.*)"\)$', text, re.MULTILINE)
    (size,) = re.findall(r"^ +log-msg-size\((\d+)\)$", text, re.MULTILINE)
    (written,) = re.findall(r'^    file\(\n        "(.*)"$', text, re.MULTILINE)
    return [f"{directory}/{pattern}"], int(size), written


def vector() -> tuple[list[str], int, str]:
    config = tomllib.loads((SHIPPERS / "vector.toml").read_text())
    (source,) = config["sources"].items()
    (transform,) = config["transforms"].items()
    (sink,) = config["sinks"].values()
    assert transform[1]["inputs"] == [source[0]]
    assert sink["inputs"] == [transform[0]]
    return source[1]["include"], source[1]["max_line_bytes"], sink["path"]


def fluent_bit() -> tuple[list[str], int, str]:
    config = yaml.safe_load((SHIPPERS / "fluent-bit.yaml").read_text())
    (source,) = config["pipeline"]["inputs"]
    (sink,) = config["pipeline"]["outputs"]
    (parser,) = config["parsers"]
    assert source["parser"] == parser["name"]
    assert sink["match"] == source["tag"]
    size = int(source["buffer_chunk_size"].removesuffix("k")) << 10
    return source["path"].split(","), size, f"{sink['path']}/{sink['file']}"


CONFIGS = {
    "rsyslog.conf": rsyslog,
    "syslog-ng.conf": syslog_ng,
    "vector.toml": vector,
    "fluent-bit.yaml": fluent_bit,
}


def test_each_file_is_looked_at() -> None:
    assert {path.name for path in SHIPPERS.iterdir()} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_reads_the_log_and_nothing_else(name: str, tmp_path: Path) -> None:
    patterns, size, written = CONFIGS[name]()
    assert size >= 2 * LONGEST_LINE
    assert written == SHIPPED

    def reads(path: object) -> bool:
        return any(fnmatchcase(str(path), pattern) for pattern in patterns)

    rotated = DIRECTORY / new_name(tmp_path).name
    assert reads(rotated)
    assert reads(DIRECTORY / LIVE) == (name in {"rsyslog.conf", "vector.toml"})
    for other in (".zst", ".gz", ".zst.part"):
        assert not reads(f"{rotated}{other}")
    assert not reads(rotated.with_suffix(".torn"))
    assert not reads((DIRECTORY / LIVE).with_suffix(".new"))
    assert not reads(SHIPPED)
