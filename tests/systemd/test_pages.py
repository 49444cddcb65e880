"""The examples of the README, the other pages and `--help`, as a reader runs them.

They run on a booted Debian with the packages, page by page, in their order. What a page shows as
output is compared with what comes.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from examples import Example, Likeness, examples_in, shell_examples

from qmond.ctl.completion import verb_parsers
from qmond.ctl.verbs import parser

if TYPE_CHECKING:
    from machine import Machine

pytest_plugins = ("machine",)
pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
PAGES: Final = (
    "README.md", "README.zh-CN.md", "docs/analysis.md", "docs/protocol.md", "docs/monitoring.md",
    "docs/operations.md",
)  # fmt: skip
OTHERS: Final = {
    "docs/client.md": "tests/test_client_page.py",
    "docs/screens.md": "tests/ctl/test_screens.py",
    "docs/shippers.md": "tests/root/test_shippers.py",
}
"""Pages whose examples run in another test."""
ELSEWHERE: Final = {
    "sudo script/demo": "tests/root/test_demo.py",
    "sudo script/test": "this is part of it",
    "sudo script/deb": "the fixture `package`",
    "sudo curl --unix-socket /run/qmond/metrics.sock http://localhost/metrics":
        "tests/root/test_prometheus.py",
}  # fmt: skip
"""Commands that run in another test."""
VERBS: Final = verb_parsers(parser())
ENDLESS: Final = re.compile(
    r"qmonctl (?:top|tail(?!.*--no-follow))|(?:tail|journalctl) .*-f\b|; ?cat\)"
)
"""Commands that end by ^C."""
ENDED: Final = {0, 124, 130}
"""Their statuses then; 124 is timeout's."""
FOLDER: Final = "/root/reader"
GUEST: Final = "qemu-aarch64-static ./sensor"
COMPILERS: Final = {"sensor": "aarch64-linux-gnu-gcc", "sample": "arm-linux-gnueabihf-gcc"}
"""What the pages run: the demo's guest, and who makes it."""
PROGRAMS: Final = {
    "firmware-test": f"exec {GUEST}",
    "start-daemon": f"{GUEST} &",
    "shipper": "exec cat",
    "sudo": 'exec "$@"',
}
"""What the pages run beside it: shell scripts."""
FORGET: Final = "qmonctl rotate && rm -f /var/log/qmond/events-*"
"""What the log has of other pages."""
RECORD: Final = "qmond-record-20261123T083452"
"""A record that a page names."""


@pytest.fixture(scope="module")
def reader(machine: Machine, package: Path) -> Iterator[Machine]:
    """Give a machine to somebody who reads: a folder with the files that the pages name."""
    folder = machine.root / FOLDER.lstrip("/")
    folder.mkdir(parents=True)
    shutil.copytree(package.parent, folder / "dist")
    source = ROOT / "script/demo-guest.c"
    for name, compiler in COMPILERS.items():
        subprocess.run([compiler, "-static", "-O1", "-o", folder / name, source], check=True)
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "Makefile").write_text(f"check:\n\t{GUEST}\n")
    (machine.root / "etc/hostname").write_text("vm\n")
    configure = "sed -i 's,procfs: /proc,procfs: /run/host/proc,' /etc/qmon.yaml"
    install = "apt-get install -qq -y --no-install-recommends ./dist/*.deb 2>&1"
    machine.run(f"cd {FOLDER} && {install} && {configure} && systemctl start qmond", timeout=120)
    yield machine
    machine.run("apt-get purge -qq -y qmond qmond-query python3-qmond 2>&1", timeout=60)


def test_no_page_is_forgotten() -> None:
    pages = [path.relative_to(ROOT) for path in (*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md"))]
    found = {str(page) for page in pages if any(examples_in(ROOT / page, ""))}
    assert found == {*PAGES, *OTHERS}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_comes(page: str, reader: Machine) -> None:
    reader.run(f"systemctl start qmond; {FORGET}; rm -rf {FOLDER}/run*")
    likeness = Likeness()
    for example in examples_in(ROOT / page, page):
        if plain(example.text) not in ELSEWHERE:
            run(example, reader, likeness)


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_a_verb_work(verb: str, reader: Machine) -> None:
    if verb == "record":
        reader.run(f"rm -rf {FOLDER}/run* {FOLDER}/qmond-record*")
    for example in examples_of(verb):
        run(example, reader, Likeness())
    if verb == "record":
        reader.run(f"cd {FOLDER} && set -- qmond-record-* && mv $1 {RECORD}")


def examples_of(verb: str) -> Iterator[Example]:
    """Yield the examples of a verb's help; what stands behind three spaces is no part of them."""
    lines: list[str] = []
    for line in (VERBS[verb].description or "").splitlines():
        if lines or line.startswith("qmonctl "):
            lines.append(line)
            try:
                shlex.split("\n".join(lines))
            except ValueError:  # it goes on
                continue
            command = re.sub(r" {2,}[^'\"]*\Z", "", "\n".join(lines))
            yield from shell_examples(f"qmonctl {verb} --help", [*command.splitlines()])
            lines = []


def plain(command: str) -> str:
    """Return a command without its comment."""
    return re.sub(r"\s+#[^'\"]*\Z", "", command)


def run(example: Example, machine: Machine, likeness: Likeness) -> None:
    """Run an example, and compare its output with what the page shows."""
    assert example.language == "sh", example
    command = plain(example.text)
    if ENDLESS.search(command):
        output = meanwhile(command, machine)
    else:
        output = machine.run(in_folder(command))
    assert "Traceback" not in output, f"{example.where}: {output}"
    if example.output is not None:
        difference = likeness.difference(example.output, output.splitlines())
        assert not difference, f"{example.where}: {command}: {difference}\n{output}"


def in_folder(command: str) -> str:
    """Return the command line of a shell that runs a command as the reader does."""
    return (
        f"USER=root PATH={FOLDER}:$PATH NO_COLOR=1 bash -c {shlex.quote(f'cd {FOLDER}; {command}')}"
    )


def meanwhile(command: str, machine: Machine) -> str:
    """Run a command on a terminal until ^C, and a guest meanwhile; returns its output."""
    line = in_folder(f"stty cols 100; {command}")
    terminal = f"timeout -s INT 4 script -qec {shlex.quote(line)} /dev/null"
    with machine.started(f"sh -c {shlex.quote(terminal)}") as watch:
        machine.run(in_folder(f"sleep 1.5; {GUEST}"))
        assert watch.process.wait(20) in ENDED, command
        return watch.output.read_text().replace("\r\n", "\n")
