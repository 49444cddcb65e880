"""An event of a known shape is a row in each of two tables, and nothing else: it is tried."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVENTS = """\
    Event(
        "TRIAL_ADDRESS",
        "a call with a socket address",
        "sys_enter",
        (_PID, _FD, *address("where to")),
        own=True,
        group=Group.NET,
        strace="({fd}, {addr}, ?) = ?",
    ),
    Event(
        "TRIAL_PATH",
        "a call with a path",
        "sys_enter",
        (_PID, *text("where", "the path as it was asked for")),
        own=True,
        group=Group.NET,
        strace="({where}) = ?",
    ),
    Event(
        "TRIAL_NUMBERS",
        "a call with numbers",
        "sys_enter",
        (_PID, _FD, integer("backlog", "b", "s32", "how many may wait")),
        own=True,
        group=Group.NET,
        strace="({fd}, {backlog}) = ?",
    ),
"""
CALLS = """\
    Call("trial_address", "TRIAL_ADDRESS", 509, 509, "address", "late", (1, 2), own=True),
    Call("trial_path", "TRIAL_PATH", 510, 510, "path", "late", (0,), own=True),
    Call("trial_numbers", "TRIAL_NUMBERS", 511, 511, "integers", "none", (0, 1), own=True),
"""


def insert(path: Path, rows: str, before: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, rows + before))


def test_an_event_of_a_known_shape_is_two_rows(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "qmond", tmp_path / "qmond", ignore=shutil.ignore_patterns("__pycache__")
    )
    insert(tmp_path / "qmond/events/table.py", EVENTS, ")\n\nBY_NAME")
    insert(tmp_path / "qmond/events/calls.py", CALLS, ")\n# fmt: on")
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/events/trial.py",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
