"""A bar chart as SVG: how many times as long guests take under each watcher, on a log scale."""

from __future__ import annotations

import math
from collections.abc import Mapping

COLOURS = {"qmond": "#2a7", "peer": "#c63", "strace": "#888"}
_LEFT, _WIDTH, _BAR = 300, 420, 18


def bars(groups: Mapping[str, Mapping[str, float]]) -> str:
    """Return the chart; `groups` has by guest and by watcher how many times as long it takes."""
    most = max(value for group in groups.values() for value in group.values())
    rows, y = [], 30
    for title, group in groups.items():
        rows.append(f'<text x="10" y="{y + 13}" font-weight="bold">{title}</text>')
        y += 20
        for watcher, value in group.items():
            width = max(2.0, _WIDTH * math.log(max(value, 1.0)) / math.log(most))
            rows.append(
                f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{watcher}</text>'
                f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_BAR - 3}" '
                f'fill="{COLOURS[watcher]}"/>'
                f'<text x="{_LEFT + width + 6:.0f}" y="{y + 13}">{value:.1f}</text>'
            )
            y += _BAR
        y += 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 70}" height="{y}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        '<text x="10" y="18">slowdown, unwatched = 1 (logarithmic)</text>'
    )
    return "\n".join([head, *rows, "</svg>\n"])
