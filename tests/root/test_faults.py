"""Each fault once: no line is torn, none is missing that is not counted, and the log goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Build
from faults import FAULTS, Fault, suffer
from stock import Stock


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_nothing_is_uncounted_or_torn(
    fault: Fault, build: Build, stock: Stock, tmp_path: Path
) -> None:
    row = suffer(fault, tmp_path / "fault", build("count", "aarch64"), kills=5, stock=stock)
    assert row.is_right, str(row)
    assert len(row.said) <= 30, "one message for each trouble, not one for each batch"
