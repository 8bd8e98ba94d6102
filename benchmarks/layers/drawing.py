"""Draw lines, a table of shades or stripes into an SVG file, without any library. The ground is white on any page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from luna_kernel.base.durable import write_text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 70, 200, 30, 50
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910")
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
BLUE, RED = (27, 108, 168), (192, 57, 43)


@dataclass(frozen=True)
class Axis:
    """From the lowest to the highest value, logarithmic or even."""

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at the lowest and 1 at the highest."""
        low, high, at = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        return (at - low) / max(high - low, 1e-12)

    def ticks(self) -> list[float]:
        """Round numbers: powers of ten, or 1, 2, 5 of each, on a logarithmic axis; on a short one even steps."""
        decades = math.log10(self.high / self.low) if self.log else 0.0
        if decades > 1:
            steps = (1, 2, 5) if decades < 2.5 else (1,)
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = (step * 10.0**power for power in powers for step in steps)
            return [tick for tick in found if -1e-9 <= self.share(tick) <= 1 + 1e-9]
        rough = max(self.high - self.low, 1e-12) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def draw_lines(
    path: Path,
    title: str,
    across: str,
    up: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    floor: float = 0.0,
    log: tuple[bool, bool] = (True, True),
    marks: Mapping[str, float] | None = None,
) -> None:
    """Write `lines`, {name: points (x, y)}, to `path`.

    Args:
        floor: smaller y are left out where y is logarithmic.
        log: whether x and y are logarithmic; then all x, or all y, must be positive.
        marks: {text: x} of upright dashed lines.
    """
    kept = {name: [(x, y) for x, y in points if not log[1] or y > floor] for name, points in lines.items()}
    xs, ys = zip(*(point for points in kept.values() for point in points), strict=True)
    x_axis, y_axis = Axis(min(xs), max(xs), log[0]), Axis(min(ys), max(ys), log[1])
    bottom = HEIGHT - BOTTOM

    def right(x: float) -> float:
        return LEFT + x_axis.share(x) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return bottom - y_axis.share(y) * (bottom - TOP)

    parts = [
        _text(LEFT, TOP - 12, title, weight="bold"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across, anchor="middle"),
        f'<g transform="rotate(-90 16 {HEIGHT / 2})">{_text(16, HEIGHT / 2, up, anchor="middle")}</g>',
    ]
    for tick in x_axis.ticks():
        parts.append(_line(right(tick), TOP, right(tick), bottom, 'stroke="#ddd"'))
        parts.append(_text(right(tick), bottom + 16, _number(tick), anchor="middle"))
    for tick in y_axis.ticks():
        parts.append(_line(LEFT, down(tick), WIDTH - RIGHT, down(tick), 'stroke="#ddd"'))
        parts.append(_text(LEFT - 6, down(tick) + 4, _number(tick), anchor="end"))
    for text, x in (marks or {}).items():
        parts.append(_line(right(x), TOP, right(x), bottom, 'stroke="#555" stroke-dasharray="2 3"'))
        parts.append(_text(right(x) + 4, TOP + 10, text, fill="#555"))
    for number, (name, points) in enumerate(kept.items()):
        dashes = ' stroke-dasharray="6 3"' if number >= len(COLOURS) else ""
        style = f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"{dashes}'
        shape = " ".join(f"{right(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{shape}" fill="none" {style}/>')
        y = TOP + 14 + 18 * number
        parts.append(_line(WIDTH - RIGHT + 8, y - 4, WIDTH - RIGHT + 30, y - 4, style))
        parts.append(_text(WIDTH - RIGHT + 36, y, name))
    _write(path, WIDTH, HEIGHT, parts)


def draw_heat(
    path: Path,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    across: str = "",
    digits: int = 2,
    white: float | None = None,
) -> None:
    """Write a table of `values` (rows, columns) to `path`, each cell the darker the larger; None is left empty.

    Args:
        white: the value of the lightest shade; None: the smallest.
    """
    known = [value for row in values for value in row if value is not None]
    low, high = min(known) if white is None else white, max(known)
    cell, tall = 56, 24
    left, top = _left(rows), 64 if across else 48
    parts = [_text(14, 18, title, weight="bold")]
    parts.append(_text(left + cell * len(columns) / 2, 38, across, anchor="middle"))
    parts += [_text(left + cell * (at + 0.5), top - 8, name, anchor="middle") for at, name in enumerate(columns)]
    for down, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + tall * down
        parts.append(_text(left - 8, y + 16, name, anchor="end"))
        for at, value in enumerate(row):
            if value is not None:
                share = (value - low) / max(high - low, 1e-9)
                x = left + cell * at
                parts.append(_cell(x, y, cell - 2, tall - 2, _shade(share), 'stroke="#ccc"'))
                ink = "white" if share > 0.6 else "black"
                parts.append(_text(x + cell / 2 - 1, y + 16, f"{value:.{digits}f}", anchor="middle", fill=ink))
    width = max(left + cell * len(columns), 14 + 7 * len(title)) + 14
    _write(path, width, top + tall * len(rows) + 14, parts)


def draw_stripes(path: Path, title: str, across: str, rows: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """Write rows of `values` (rows, many) to `path`, a stripe each: blue above 0, red below, white at 0."""
    most = max(abs(value) for row in values for value in row)
    left, top, tall = _left(rows), 40, 26
    wide = max(4, 500 // len(values[0]))
    parts = [_text(14, 18, title, weight="bold")]
    for down, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + tall * down
        parts.append(_text(left - 8, y + 16, name, anchor="end"))
        parts += [_cell(left + wide * at, y, wide, tall - 4, _shade(value / most)) for at, value in enumerate(row)]
        parts.append(_cell(left, y, wide * len(row), tall - 4, "none", 'stroke="#ccc"'))
    y = top + tall * len(rows) + 14
    parts.append(_text(left, y + 4, across))
    scale = left + wide * len(values[0]) - 150
    parts += [_cell(scale + 10 * step + 50, y - 8, 10, 14, _shade(step / 4)) for step in range(-4, 5)]
    parts.append(_text(scale + 4, y + 4, f"{-most:.2f}", anchor="end"))
    parts.append(_text(scale + 106, y + 4, f"+{most:.2f}"))
    _write(path, left + wide * len(values[0]) + 14, y + 20, parts)


def _left(rows: Sequence[str]) -> int:
    return 22 + 7 * max(map(len, rows))


def _shade(share: float) -> str:
    """White at 0, blue at 1, red at -1."""
    ink = BLUE if share >= 0 else RED
    return "#" + "".join(f"{round(255 + (dark - 255) * min(abs(share), 1.0)):02x}" for dark in ink)


def _number(value: float) -> str:
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:g} {prefix}"
    return f"{value:,g}" if abs(value) < 1000 else f"{value:,.0f}"


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", fill: str = "black") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}"'
    return f"<text {place}>{escape(text)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _cell(x: float, y: float, width: float, height: float, fill: str, style: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width}" height="{height}" fill="{fill}" {style}/>'


def _write(path: Path, width: float, height: float, parts: Sequence[str]) -> None:
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join([*head, *parts, "</svg>", ""]))
    print(f"\ndrawn: {path}")
