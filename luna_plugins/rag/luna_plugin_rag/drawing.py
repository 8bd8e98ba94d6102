"""Bars as SVG, without any library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP, ROW, HEIGHT, BOTTOM = 720, 300, 80, 40, 22, 260, 46
COLOUR = "#1b6ca8"


def _head(height: int, title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(12, 22, title, weight="bold"),
    ]


def horizontal_bars(title: str, rows: Sequence[tuple[str, float, str]], full: float | None = None) -> str:
    """One bar a row.

    Args:
        title: above the bars.
        rows: (name, value, value as text); values are not negative.
        full: the value of the longest bar possible; None: the largest there is.
    """
    most = max([full or 0.0, *(value for _, value, _ in rows)]) or 1.0
    parts = _head(TOP + ROW * len(rows) + 12, title)
    for number, (name, value, text) in enumerate(rows):
        y = TOP + ROW * number
        length = value / most * (WIDTH - LEFT - RIGHT)
        parts.append(_text(LEFT - 8, y + 14, name if len(name) <= 44 else f"{name[:43]}…", anchor="end"))
        parts.append(f'<rect x="{LEFT}" y="{y + 3}" width="{length:.1f}" height="{ROW - 7}" fill="{COLOUR}"/>')
        parts.append(_text(LEFT + length + 6, y + 14, text))
    return "\n".join([*parts, "</svg>", ""])


def histogram(title: str, across: str, values: Sequence[float], bins: int = 20) -> str:
    """How many values lie in each of `bins` equal parts from 0 to the largest."""
    most = max([*values, 1.0])
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value / most * bins))] += 1
    tallest = max(counts) or 1
    width, foot = (WIDTH - 100) / bins, HEIGHT - BOTTOM
    parts = _head(HEIGHT, title)
    for number, count in enumerate(counts):
        high = count / tallest * (foot - TOP)
        x = 60 + number * width
        parts.append(
            f'<rect x="{x:.1f}" y="{foot - high:.1f}" width="{width - 2:.1f}" height="{high:.1f}" fill="{COLOUR}"/>'
        )
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text(60 + share * (WIDTH - 100), foot + 16, f"{share * most:.0f}", anchor="middle"))
    parts.append(_text(WIDTH / 2, HEIGHT - 8, across, anchor="middle"))
    parts.append(_text(52, TOP + 4, str(tallest), anchor="end"))
    parts.append(_text(52, foot, "0", anchor="end"))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
