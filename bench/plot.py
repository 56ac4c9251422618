"""Charts as small SVG files: lines over a linear or a logarithmic axis, each line named at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from bench.figures import number

SVG = "http://www.w3.org/2000/svg"
WIDTH, HEIGHT = 680, 340
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 40, 50
COLORS = ("#1f6feb", "#d1572a", "#2f8f4e", "#8250df")
TICKS = 5


@dataclass(frozen=True, slots=True)
class Series:
    """A line: points (x, y), from left to right."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of lines; `name` is that of its file. The y axis begins at 0."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    logarithmic: bool = False


def svg(chart: Chart) -> str:
    """Return a chart as SVG."""
    xs = sorted({x for series in chart.series for x, _ in series.points})
    top = _round_up(max(y for series in chart.series for _, y in series.points))
    across, up = _scale(xs, chart.logarithmic), _linear(0, top, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="{SVG}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 22, chart.title, 'font-size="15" font-weight="bold"'),
        _text(LEFT, TOP - 6, chart.y_label, 'fill="#57606a"'),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, chart.x_label, 'fill="#57606a" text-anchor="middle"'),
    ]
    for tick in (top * place / TICKS for place in range(TICKS + 1)):
        parts.append(f'<path d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}" stroke="#d8dee4"/>')
        parts.append(_text(LEFT - 8, up(tick) + 4, number(tick), 'text-anchor="end" fill="#57606a"'))
    middle = 'text-anchor="middle" fill="#57606a"'
    parts += [_text(across(tick), HEIGHT - BOTTOM + 18, number(tick), middle) for tick in _spread(xs, across)]
    for color, series in zip(COLORS, chart.series, strict=False):
        parts += _line(series, color, across, up)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(series: Series, color: str, across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    places = [(across(x), up(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    x, y = places[-1]
    label = _text(x + 8, y + 4, series.label, f'fill="{color}"')
    return [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>', *dots, label]


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _scale(xs: Sequence[float], logarithmic: bool) -> Callable[[float], float]:
    """Return how values become places; on a logarithmic axis, 0 stands one step before the least."""
    if not logarithmic:
        return _linear(0, xs[-1] or 1, LEFT, WIDTH - RIGHT)
    least = min(x for x in xs if x > 0)
    first = least / 10 if xs[0] == 0 else least
    line = _linear(math.log10(first), math.log10(xs[-1]) or 1, LEFT, WIDTH - RIGHT)
    return lambda x: line(math.log10(x or first))


def _linear(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    return lambda value: begin + (value - low) / ((high - low) or 1) * (end - begin)


def _spread(xs: Sequence[float], across: Callable[[float], float]) -> list[float]:
    """Return the values that may stand below the axis without touching each other."""
    chosen: list[float] = []
    for x in reversed(xs):
        if not chosen or across(chosen[-1]) - across(x) >= 60:
            chosen.append(x)
    return chosen


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999)
