"""Draw lines, or a table of shades, into an SVG file, without any library. The ground is white on any page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 70, 200, 30, 50
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910")


def draw_lines(
    path: Path, title: str, across: str, up: str, lines: Mapping[str, Sequence[tuple[float, float]]], floor: float = 0.0
) -> None:
    """Write `lines`, {name: points (x, y), all positive}, to `path`; smaller y than `floor` are left out."""
    kept = {name: [(x, y) for x, y in points if y > floor] for name, points in lines.items()}
    xs, ys = zip(*(point for points in kept.values() for point in points), strict=True)
    x_range, y_range = (math.log10(min(xs)), math.log10(max(xs))), (math.log10(min(ys)), math.log10(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - x_range[0]) / max(x_range[1] - x_range[0], 1e-9)
        high = (math.log10(y) - y_range[0]) / max(y_range[1] - y_range[0], 1e-9)
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - high * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, TOP - 12, title, weight="bold"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across, anchor="middle"),
        f'<g transform="rotate(-90 16 {HEIGHT / 2})">{_text(16, HEIGHT / 2, up, anchor="middle")}</g>',
    ]
    for tick in _ticks(*x_range):
        x, bottom = place(tick, min(ys))
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 16, f"{tick:,.0f}", anchor="middle"))
    for tick in _ticks(*y_range):
        _, y = place(min(xs), tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", anchor="end"))
    for number, (name, points) in enumerate(kept.items()):
        colour = COLOURS[number % len(COLOURS)]
        shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{shape}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 14 + 18 * number
        parts.append(
            f'<line x1="{WIDTH - RIGHT + 8}" y1="{y - 4}" x2="{WIDTH - RIGHT + 26}" y2="{y - 4}" stroke="{colour}"'
            ' stroke-width="2"/>'
        )
        parts.append(_text(WIDTH - RIGHT + 32, y, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
    print(f"\ndrawn: {path}")


def draw_heat(
    path: Path,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    across: str = "",
    digits: int = 2,
) -> None:
    """Write a table of `values` (rows, columns) to `path`, each cell the darker the larger; None is left empty."""
    known = [value for row in values for value in row if value is not None]
    low, high = min(known), max(known)
    left, cell, tall, top = 14 + 7 * max(map(len, rows)), 56, 24, 64
    width, height = left + cell * len(columns) + 14, top + tall * len(rows) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(14, 18, title, weight="bold"),
        _text(left + cell * len(columns) / 2, 38, across, anchor="middle"),
    ]
    parts += [_text(left + cell * (at + 0.5), top - 8, name, anchor="middle") for at, name in enumerate(columns)]
    for down, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + tall * down
        parts.append(_text(left - 8, y + 16, name, anchor="end"))
        for at, value in enumerate(row):
            if value is None:
                continue
            share = (value - low) / max(high - low, 1e-9)
            shade = "#" + "".join(f"{round(255 + (dark - 255) * share):02x}" for dark in (27, 108, 168))
            x = left + cell * at
            parts.append(f'<rect x="{x}" y="{y}" width="{cell - 2}" height="{tall - 2}" fill="{shade}" stroke="#ccc"/>')
            ink = "white" if share > 0.6 else "black"
            parts.append(_text(x + cell / 2 - 1, y + 16, f"{value:.{digits}f}", anchor="middle", fill=ink))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
    print(f"\ndrawn: {path}")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from 10^low to 10^high: 1, 2, 5 of each power where there are few powers."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    ticks = (step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps)
    return [tick for tick in ticks if low - 1e-9 <= math.log10(tick) <= high + 1e-9]


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", fill: str = "black") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}"'
    return f"<text {place}>{escape(text)}</text>"
