"""Each scenario once: nothing may differ from the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Build
from scenarios import SCENARIOS
from stage import Row, Stage, staged


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_what_is_seen_is_the_truth(
    scenario: Callable[[Stage], Iterator[Row]], build: Build, tmp_path: Path
) -> None:
    with staged(tmp_path, build) as stage:
        rows = list(scenario(stage))
    assert rows
    for row in rows:
        assert row.truth, f"nothing to compare: {row}"
        assert row.difference == 0, str(row)
