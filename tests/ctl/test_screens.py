"""docs/screens.md has what a terminal shows: nothing is wrapped, and what matters is visible."""

import os
import re
import shutil
from pathlib import Path

import pytest
from screens import RECORD, SCREENS, Screen, recorded, section, shoot

from qmond.ctl.show.text import width

PAGE = Path(__file__).parents[2] / "docs/screens.md"
TRIES = 3
"""`top` counts by the second, which a busy machine makes a longer one."""

needs_tmux = pytest.mark.skipif(
    shutil.which("tmux") is None and not os.environ.get("CI"),
    reason="needs tmux: script/setup test",
)


@needs_tmux
@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.title)
def test_the_page_has_what_a_terminal_shows(screen: Screen) -> None:
    page = PAGE.read_text()
    for attempt in range(TRIES):
        made = section(screen.title, shoot(screen))
        if made in page:
            break
        assert attempt < TRIES - 1, f"make screens: {made}"
    assert max(map(width, made.splitlines())) <= screen.columns


def test_the_page_has_the_end_of_a_record() -> None:
    made = section(RECORD, recorded())
    assert made in PAGE.read_text(), f"make screens: {made}"
    assert max(map(width, made.splitlines())) <= 80


def test_the_page_has_these_screens_alone() -> None:
    titles = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    assert titles == [*(screen.title for screen in SCREENS), RECORD]
