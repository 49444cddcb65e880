"""The screen of `qmonctl top`, in textual."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Footer, Static

from qmond.ctl.show.sampling import COLUMNS, Sample, Sampler, rows_of, summary

__all__ = ["Top"]

_INTERRUPTED: Final = 130  # as a shell reports SIGINT


class Top(App[None]):
    """The table of processes, below two lines of totals, updated `every` so many seconds."""

    TITLE = "qmonctl top"
    ENABLE_COMMAND_PALETTE = False
    CSS = "Static { height: 2; } DataTable { height: 1fr; }"
    BINDINGS = [  # noqa: RUF012 - as textual documents it
        ("s", "sort", "sort by the next column"),
        ("r", "reverse", "reverse"),
        ("p", "pause", "pause"),
        ("q", "quit", "quit"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(self, sampler: Sampler, sort: str = "EV/S", *, every: float = 1.0) -> None:
        super().__init__()
        self.sampler = sampler
        self.every = every
        self.column, self.reversed, self.paused = sort, False, False
        self.sample = Sample()

    def compose(self) -> ComposeResult:
        """Return the widgets; textual calls this, and the methods `on_…` and `action_…`."""
        yield Static(markup=False)
        yield DataTable(cursor_type="none", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Start the updates."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.action_interrupt)
        self.set_interval(self.every, self.ask)
        self.ask()

    def ask(self) -> None:
        """Take a sample in a thread, because the daemon may answer late."""
        if not self.paused:
            self.run_worker(self.fetch, thread=True, exclusive=True)

    def fetch(self) -> None:
        """Take a sample; runs in the thread."""
        sample = self.sampler.sample()
        self.call_from_thread(self.show, sample)

    def show(self, sample: Sample) -> None:
        """Show a sample."""
        self.sample = sample
        self.draw()

    def draw(self) -> None:
        """Draw the table and the totals."""
        paused = "  (paused)" if self.paused else ""
        self.query_one(Static).update(summary(self.sample) + paused)
        table: DataTable[Any] = self.query_one(DataTable)
        scroll_y = table.scroll_y
        table.clear(columns=True)
        mark = "▲" if self.reversed else "▼"
        table.add_columns(*(f"{c} {mark}" if c == self.column else c for c in COLUMNS))
        for row in rows_of(self.sample.processes, self.column, reverse=self.reversed):
            table.add_row(*(Text(cell) for cell in row))
        table.scroll_y = scroll_y

    def action_sort(self) -> None:
        """Sort by the next column."""
        self.column = COLUMNS[(COLUMNS.index(self.column) + 1) % len(COLUMNS)]
        self.draw()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self.reversed = not self.reversed
        self.draw()

    def action_pause(self) -> None:
        """Pause or resume the updates."""
        self.paused = not self.paused
        self.draw()

    def action_interrupt(self) -> None:
        """End after Ctrl-C, for which a terminal in this mode sends no SIGINT."""
        self.exit(return_code=_INTERRUPTED)

    def on_unmount(self) -> None:
        """Close the connection."""
        self.sampler.close()
