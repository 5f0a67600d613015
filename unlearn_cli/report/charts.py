"""Line charts as inline SVG: no script, no font, no colour of their own outside the style sheet.

Colours are the classes `c0` to `c5` (Okabe-Ito, told apart by dashes too); the page's style sheet
gives them a light and a dark value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from unlearn_cli.report.words import number

WIDTH, HEIGHT = 440, 250  # user units; the page scales them to the column
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 40
COLOURS = 6
MOST_POINTS = 400
LOG_FROM = 1e3
"""A range of positive values wider than this factor is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Series:
    """A line: points in ascending x; `reference` is drawn as a diamond at the right edge."""

    name: str
    points: tuple[tuple[float, float], ...]
    reference: float | None = None
    stairs: bool = False
    """Horizontal between points, as a distribution function is."""


@dataclass(frozen=True)
class Axis:
    """From values to user units along one side of the plot."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of `value`."""
        low, high, value = (self._scale(v) for v in (self.low, self.high, value))
        share = (value - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def _scale(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value

    def ticks(self) -> list[float]:
        """Round values inside the axis, about five."""
        if not self.log:
            return _linear_ticks(self.low, self.high)
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        return [10.0**n for n in range(first, last + 1, max(1, math.ceil((last - first) / 5)))]


def chart(title: str, series: Sequence[Series], x: str, y: str = "") -> Markup:
    """An SVG figure with its legend; empty where no series has a finite point.

    Args:
        title: caption, also what a screen reader says.
        series: at most `COLOURS` of them get a colour of their own.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    shown = [Series(s.name, _thin(_finite(s.points)), s.reference, s.stairs) for s in series]
    shown = [s for s in shown if s.points]
    if not shown:
        return Markup("")
    x_axis, y_axis = axes(shown)
    body = Markup("").join(
        [*grid(x_axis, y_axis, x, y), *(_line(i, s, x_axis, y_axis) for i, s in enumerate(shown))]
    )
    return Markup(
        '<figure class="chart"><figcaption>{title}</figcaption>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{body}</svg>'
        "{legend}</figure>"
    ).format(title=title, width=WIDTH, height=HEIGHT, body=body, legend=_legend(shown))


def distribution(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Points of the empirical distribution function: (v, share of values <= v)."""
    ordered = sorted(v for v in values if math.isfinite(v))
    shares = {value: n / len(ordered) for n, value in enumerate(ordered, 1)}
    return ((ordered[0], 0.0), *shares.items()) if ordered else ()


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [point for point in points if all(math.isfinite(value) for value in point)]


def _thin(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most `MOST_POINTS` points, the last always among them."""
    stride = math.ceil(len(points) / MOST_POINTS) or 1
    return tuple(reversed(points[::-1][::stride]))


def axes(series: Sequence[Series]) -> tuple[Axis, Axis]:
    """Axes that all points fit."""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    ys += [s.reference for s in series if s.reference is not None]
    stairs = any(s.stairs for s in series)
    x_axis = _axis(xs, LEFT, WIDTH - RIGHT, log=stairs and _is_wide(xs))
    return x_axis, _axis(ys, HEIGHT - BOTTOM, TOP, log=_is_wide(ys))


def _is_wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > LOG_FROM


def _axis(values: Sequence[float], start: float, end: float, *, log: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
    elif low >= 0 and high <= 1.0001 and high > 0.5:  # shares and probabilities: the whole range
        low, high = 0.0, 1.0
    elif 0 < low < 0.4 * high:
        low = 0.0
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Axis(low, high, start, end, log)


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def grid(x_axis: Axis, y_axis: Axis, x: str, y: str) -> Iterator[Markup]:
    """Lines, ticks and labels of both axes."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in y_axis.ticks():
        at = y_axis(tick)
        yield Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, at, right)
        yield _text(LEFT - 6, at + 4, _tick(tick), "end")
    for tick in x_axis.ticks():
        yield Markup('<path class="axis" d="M{:.1f} {}v4"/>').format(x_axis(tick), bottom)
        yield _text(x_axis(tick), bottom + 17, _tick(tick), "middle")
    yield Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, bottom, right)
    yield _text((LEFT + right) / 2, HEIGHT - 4, x, "middle")
    if y:
        turned = Markup('<text class="label" transform="translate(12 {}) rotate(-90)">{}</text>')
        yield turned.format((TOP + bottom) // 2, y)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    template = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return template.format(x, y, anchor, text)


def _tick(value: float) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:.4g}"


def _line(index: int, series: Series, x: Callable[[float], float], y: Axis) -> Markup:
    at = [(x(a), y(b)) for a, b in series.points]
    command = "H{0:.1f}V{1:.1f}" if series.stairs else "L{0:.1f} {1:.1f}"
    path = f"M{at[0][0]:.1f} {at[0][1]:.1f}" + "".join(command.format(*p) for p in at[1:])
    colour = index % COLOURS
    line = Markup('<path class="line c{} d{}" d="{}"><title>{}</title></path>')
    parts = [line.format(colour, colour, path, series.name)]
    if not series.stairs and len(at) <= 30:
        dot = Markup(
            '<circle class="dot c{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>'
        )
        for (cx, cy), (a, b) in zip(at, series.points, strict=True):
            parts.append(dot.format(colour, cx, cy, f"{series.name}: {number(b)} at {a:g}"))
    if series.reference is not None:
        parts.append(_diamond(colour, y(series.reference), series))
    return Markup("").join(parts)


def _diamond(colour: int, cy: float, series: Series) -> Markup:
    template = Markup(
        '<path class="diamond c{}" d="M{} {:.1f}l6 -6 6 6 -6 6z"><title>{}</title></path>'
    )
    what = f"retain reference, {series.name}: {number(series.reference or 0.0)}"
    return template.format(colour, WIDTH - RIGHT - 6, cy, what)


def _legend(series: Sequence[Series]) -> Markup:
    item = Markup(
        '<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
        '<path class="line c{0} d{0}" d="M1 5H27"/></svg>{1}</li>'
    )
    items = [item.format(i % COLOURS, escape(s.name)) for i, s in enumerate(series)]
    if any(s.reference is not None for s in series):
        items.append(Markup("<li>◇ retain reference</li>"))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
