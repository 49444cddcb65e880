"""Capabilities: none in force in the process itself, all there for those that it starts."""

import os
import subprocess
from pathlib import Path

import pytest

from qmond import privileges

AS_SERVICE = [
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=-all,+bpf,+setuid", "--ambient-caps=+bpf,+setuid",
]  # fmt: skip
SAY = "print(*[line.split()[1] for line in open('/proc/self/status') if line[:6] == 'CapEff'])"
BPF_AND_SETUID = f"{1 << 39 | 1 << 7:016x}"
NONE = f"{0:016x}"


def said(script: str) -> list[str]:
    """Run a script as the service's user, with two capabilities; returns what it prints.

    That user may have no way into the folder of this checkout.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: run `sudo script/test`")
    module = Path(privileges.__file__).read_text()
    command = [*AS_SERVICE, "/usr/bin/python3", "-c", f"{module}\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_they_are_not_in_force_and_go_to_who_is_started_later() -> None:
    script = f"""
import subprocess, sys
print(lower(lambda: None), flush=True)
{SAY}
sys.stdout.flush()
subprocess.run([sys.executable, "-c", {SAY!r}])
"""
    assert said(script) == ["True", NONE, BPF_AND_SETUID]


def test_what_is_needed_after_all_stays() -> None:
    script = f"""
def refuse(): raise PermissionError(1, "not permitted")
print(lower(refuse))
{SAY}
"""
    assert said(script) == ["False", BPF_AND_SETUID]


def test_root_by_hand_is_left_alone() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: run `sudo script/test`")
    assert not privileges.lower(lambda: None)
