"""encode.c on hostile rings, under AddressSanitizer: it keeps to its record and its buffer."""

import os
import subprocess
import time
from pathlib import Path
from struct import pack

import pytest

from qmond.compiler import Compiler
from qmond.encode_build import preamble

ROOT = Path(__file__).parents[1]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]


def tables() -> bytes:
    """Return the table's op codes as the fuzzer reads them: struct qmond_event and so on."""
    compiled = Compiler(full=True)
    parts = [
        [pack("=IIBBB4xxI", *event, 0) for event in compiled.events],
        [pack("=BBBBII", *op) for op in compiled.ops],
        [pack("=qII", *name) for name in compiled.names],
        [compiled.texts[at : at + 1] for at in range(len(compiled.texts))],
    ]
    return b"".join(pack("=Q", len(part)) + b"".join(part) for part in parts)


def test_hostile_records_are_read_within_their_bounds(tmp_path: Path) -> None:
    source, program = tmp_path / "fuzz.c", tmp_path / "fuzz"
    parts = [ROOT / "qmond/encode.c", ROOT / "tests/fuzz/encode.c"]
    source.write_text("\n".join([preamble(), *(part.read_text() for part in parts)]))
    if subprocess.run(["gcc", *SANITIZERS, "-w", "-o", program, source], check=False).returncode:
        assert not os.environ.get("CI")
        pytest.skip("no gcc with sanitizers")
    (tmp_path / "tables").write_bytes(tables())
    seed = time.time_ns()
    command = [str(program), str(tmp_path / "tables"), "300", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (seed, done.stderr[:3000])
    assert int(done.stdout) > 1000
