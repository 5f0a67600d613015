"""Forgetting against utility as one SVG file: a point a seed, the mean of a group.

Stands alone: it opens in a browser, a paper or a slide. Groups have the numbers of the legend, so
that nothing depends on colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from unlearn_cli.compare import Comparison, Group, Mean
from unlearn_cli.report.charts import COLOURS, HEIGHT, WIDTH, Axis, Series, axes, grid
from unlearn_cli.safe_text import clean

UTILITY = ("model_utility", "retain.probability")
FORGETTING = ("forget_quality", "forget.probability")
LINE = 18  # user units, height of a line of the legend

STYLE = Markup("""
svg { font: 11px system-ui, sans-serif; background: #fff; }
text { fill: #1c1e21; } .grid { stroke: #e1e3e6; } .axis { stroke: #5b616a; fill: none; }
.bar { stroke-width: 1.5; } .seed { fill-opacity: .45; } .n { font-weight: 700; }
.c0 { fill: #0072b2; stroke: #0072b2; } .c1 { fill: #d55e00; stroke: #d55e00; }
.c2 { fill: #009e73; stroke: #009e73; } .c3 { fill: #cc79a7; stroke: #cc79a7; }
.c4 { fill: #e69f00; stroke: #e69f00; } .c5 { fill: #56b4e9; stroke: #56b4e9; }
""")


def forget_utility_plot(comparison: Comparison) -> str:
    """The SVG text; empty where no run has both a figure of forgetting and one of utility."""
    for x, y in ((x, y) for y in FORGETTING for x in UTILITY):
        points = {group.label: _points(group, x, y) for group in comparison.groups}
        if any(points.values()):
            return _svg(comparison.groups, points, x, y)
    return ""


def _points(group: Group, x: str, y: str) -> tuple[tuple[float, float], ...]:
    """(x, y) of the seeds that have both."""
    pairs = [(run.after.get(x), run.after.get(y)) for run in group.results]
    both = [(a.value, b.value) for a, b in pairs if a and b]
    return tuple((a, b) for a, b in both if a is not None and b is not None)


def _svg(
    groups: Sequence[Group], points: dict[str, tuple[tuple[float, float], ...]], x: str, y: str
) -> str:
    scale = axes([Series(name, found) for name, found in points.items() if found])
    marks = [
        mark
        for n, group in enumerate(groups)
        if points[group.label]
        for mark in _marks(n, group, points[group.label], scale, (x, y))
    ]
    body = [*grid(*scale, _words(x), _words(y)), *marks, *_legend(groups)]
    template = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" '
        'aria-label="{}"><style>{}</style>{}</svg>\n'
    )
    title = f"{_words(y)} against {_words(x)}"
    height = HEIGHT + LINE * (len(groups) + 1)
    return str(template.format(WIDTH, height, title, STYLE, Markup("").join(body)))


def _words(metric: str) -> str:
    wanted = {"forget.probability": " (lower is better)"}.get(metric, "")
    return metric.replace(".", " ").replace("_", " ") + wanted


def _marks(
    n: int,
    group: Group,
    points: Sequence[tuple[float, float]],
    scale: tuple[Axis, Axis],
    metrics: tuple[str, str],
) -> Iterator[Markup]:
    """Seeds as small dots; the mean as a large one with its number, and the interval both ways."""
    across, up = scale
    dot = Markup('<circle class="{} c{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>')
    label = clean(group.label)
    for a, b in points:
        yield dot.format("seed", n % COLOURS, across(a), up(b), 2.5, label)
    a, b = (sum(values) / len(values) for values in zip(*points, strict=True))
    bar = Markup('<path class="bar c{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>')
    if low_high := _interval(group.after[metrics[0]], across):
        yield bar.format(n % COLOURS, across(low_high[0]), up(b), across(low_high[1]), up(b))
    if low_high := _interval(group.after[metrics[1]], up):
        yield bar.format(n % COLOURS, across(a), up(low_high[0]), across(a), up(low_high[1]))
    yield dot.format("mean", n % COLOURS, across(a), up(b), 5, f"{label}: mean")
    text = Markup('<text class="n" x="{:.1f}" y="{:.1f}">{}</text>')
    yield text.format(across(a) + 7, up(b) - 6, n + 1)


def _interval(figure: Mean, axis: Axis) -> tuple[float, float] | None:
    """The confidence interval, as far as the plot shows it."""
    if figure.mean is None or figure.half_width is None:
        return None
    low, high = figure.mean - figure.half_width, figure.mean + figure.half_width
    return max(low, axis.low), min(high, axis.high)


def _legend(groups: Sequence[Group]) -> Iterator[Markup]:
    row = Markup('<circle class="c{}" cx="16" cy="{}" r="5"/><text x="28" y="{}">{} {}</text>')
    for n, group in enumerate(groups):
        at = HEIGHT + LINE * n + LINE // 2
        yield row.format(n % COLOURS, at, at + 4, n + 1, clean(group.label, 70))
    note = Markup('<text x="10" y="{}">small: one seed; large: mean; bars: 95 % interval</text>')
    yield note.format(HEIGHT + LINE * len(groups) + LINE // 2 + 4)
