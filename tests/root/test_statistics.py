"""The statistics where more processes call than have a row of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from struct import pack

from conftest import Build

from qmond.bpf.load import Options
from qmond.bpf.maps import possible_cpus
from qmond.bpf.probes import Probes, Settings
from qmond.events.records import OTHERS
from qmond.events.table import NUMBER

ROWS = 8192
"""How many there are, as qmon.c has it."""

NOBODY = 1 << 22
"""The kernel gives no process this number or a higher one (PID_MAX_LIMIT, proc(5))."""


def test_a_full_table_stops_nobody_and_loses_no_call(build: Build, tmp_path: Path) -> None:
    """It is filled, as by a guest that forks without end within an interval of an hour."""
    interpreter = tmp_path / "rows-qemu"  # that nobody else has guests of
    shutil.copy("/usr/bin/qemu-aarch64-static", interpreter)
    trace = tmp_path / "strace"
    command = [interpreter, build("count", "aarch64"), "1"]
    probes = Probes.load(Options(ring=1 << 20))
    try:
        mask = 1 << NUMBER["MMAP_SUM"]
        prefixes = (interpreter.name.encode(),)
        probes.configure(Settings(mask, capture=0, budget=0, prefixes=prefixes, excludes=()))
        none = bytes(8 * 4 * possible_cpus())
        for pid in range(ROWS):
            probes._statistics.insert(pack("=II", 0, NOBODY + pid), none)
        strace = ["strace", "-f", "-o", str(trace), "-e", "trace=mmap"]
        subprocess.run([*strace, *map(str, command)], check=True)
        found = probes.collect(probes.next_interval())
        assert len(found) == ROWS + 1
        # of the two calls of an mmap that a signal cuts in two, one says that it is resumed
        calls = sum("mmap(" in line for line in trace.read_text().splitlines())
        assert found[OTHERS].mmaps == calls > 0
        assert probes.collect(probes.next_interval()) == {}
    finally:
        probes.close()
