"""encoder.c in any order of calls, under AddressSanitizer: it keeps to its records and its buffers.

QMOND_FUZZ_SECONDS says for how long; `make fuzz` takes ten minutes.
"""

import os
import re
import subprocess
import time
from pathlib import Path
from struct import pack

import pytest

from qmond import _encode
from qmond.lines.build import SOURCES, WARNINGS, preamble
from qmond.lines.compiler import Compiler

ROOT = Path(__file__).parents[2]
CORPUS = sorted((ROOT / "tests/fuzz/corpus").iterdir())
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
SECONDS = os.environ.get("QMOND_FUZZ_SECONDS", "60" if os.environ.get("CI") else "5")


def tables() -> bytes:
    """Return the table's op codes as the fuzzer reads them: struct qmond_event and so on."""
    compiled = Compiler(full=True)
    parts = [
        [pack("=IIBBBB", *event, 0) for event in compiled.events],
        [pack("=BBBBII", *op) for op in compiled.ops],
        [pack("=qII", *name) for name in compiled.names],
        [compiled.texts[at : at + 1] for at in range(len(compiled.texts))],
    ]
    return b"".join(pack("=Q", len(part)) + b"".join(part) for part in parts)


def test_no_order_of_calls_and_no_record_leads_outside(tmp_path: Path) -> None:
    source, program = tmp_path / "fuzz.c", tmp_path / "fuzz"
    parts = [ROOT / "qmond/lines/encoder.c", ROOT / "tests/fuzz/encode.c"]
    source.write_text("\n".join([preamble(), *(part.read_text() for part in parts)]))
    if subprocess.run(["gcc", *SANITIZERS, "-w", "-o", program, source], check=False).returncode:
        assert not os.environ.get("CI")
        pytest.skip("no gcc with sanitizers")
    (tmp_path / "tables").write_bytes(tables())
    seed = time.time_ns()
    command = [str(program), "tables", SECONDS, str(seed), *map(str, CORPUS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (seed, tmp_path / "last", done.stderr[:3000])
    inputs, lines = map(int, done.stdout.split())
    assert inputs > len(CORPUS)
    assert lines > 1000


def test_no_number_is_cut_unseen(tmp_path: Path) -> None:
    """The compiler finds no conversion that may change a value, but those that the code says."""
    source = tmp_path / "both.c"
    parts = [(ROOT / "qmond" / name).read_text() for name in SOURCES]
    source.write_text("\n".join([preamble(), *parts]))
    flags = [*WARNINGS, "-Wconversion", "-Werror", "-c", "-o", "/dev/null"]
    done = subprocess.run(["gcc", *flags, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_extension_is_hardened() -> None:
    def said(*command: str) -> str:
        done = subprocess.run(
            [*command, _encode.__file__], capture_output=True, text=True, check=True
        )
        return done.stdout

    assert re.search(r"\bGNU_RELRO\b", said("readelf", "-lW"))
    assert re.search(r"\bBIND_NOW\b|\bNOW\b", said("readelf", "-dW"))
    symbols = said("readelf", "--dyn-syms", "-W")
    assert "__stack_chk_fail" in symbols
    assert "__memcpy_chk" in symbols
