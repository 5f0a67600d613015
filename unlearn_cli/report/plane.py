"""The forget-utility plane of a report: runs, their targets and their retain references.

A run is a line over its checkpoints that ends in a numbered dot, its target a square, its retain
reference a diamond: nothing depends on colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unlearn_cli.api.evaluate import Number
from unlearn_cli.report.charts import COLOURS, HEIGHT, TOP, WIDTH, Axis, Series, axes, grid
from unlearn_cli.report.words import number
from unlearn_cli.safe_text import clean

UTILITY = ("model_utility", "retain.probability", "retain.rouge_f1")
FORGETTING = ("forget_quality", "forget.probability", "forget.rouge_f1")
Point = tuple[float, float]
Figures = Mapping[str, Number]


@dataclass(frozen=True)
class Course:
    """Figures of one run."""

    label: str
    trained: Sequence[Figures]
    """Of checkpoints and the unlearned model, by step."""
    target: Figures | None
    reference: Figures | None


def plane(courses: Sequence[Course]) -> Markup:
    """An SVG figure with its legend; empty where no run has a figure of each kind."""
    for y in FORGETTING:
        for x in UTILITY:
            if any(_points(course.trained, x, y) for course in courses):
                return _figure(courses, x, y)
    return Markup("")


def _figure(courses: Sequence[Course], x: str, y: str) -> Markup:
    fixed = dict.fromkeys(
        (kind, point)
        for course in courses
        for kind, figures in (("target", course.target), ("reference", course.reference))
        for point in _points([figures] if figures else [], x, y)
    )
    paths = [_points(course.trained, x, y) for course in courses]
    every = [*(point for points in paths for point in points), *(point for _, point in fixed)]
    scale = axes([Series("", tuple(every))])
    marks = [_fixed(kind, point, scale) for kind, point in fixed]
    marks += [
        mark
        for n, (course, points) in enumerate(zip(courses, paths, strict=True))
        for mark in _course(n, course.label, points, scale)
    ]
    title = f"{_words(y)} against {_words(x)}"
    body = Markup("").join([*grid(*scale, _words(x), ""), *marks])
    return Markup(
        '<figure class="chart plane"><figcaption>{title}</figcaption>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{body}</svg>'
        "{legend}</figure>"
    ).format(title=title, width=WIDTH, height=HEIGHT, body=body, legend=_legend(courses))


def _points(models: Sequence[Figures], x: str, y: str) -> list[Point]:
    pairs = [(figures.get(x), figures.get(y)) for figures in models]
    both = [(a.value, b.value) for a, b in pairs if a and b]
    return [(a, b) for a, b in both if a is not None and b is not None]


def _fixed(kind: str, point: Point, scale: tuple[Axis, Axis]) -> Markup:
    path = {"target": "m-5 -5h10v10h-10z", "reference": "m-6 0l6 -6 6 6 -6 6z"}[kind]
    template = Markup('<path class="mark" d="M{:.1f} {:.1f}{}"><title>{}</title></path>')
    name = {"target": "target", "reference": "retain reference"}[kind]
    return template.format(*_at(point, scale), path, f"{name}: {_said(point)}")


def _course(
    n: int, label: str, points: Sequence[Point], scale: tuple[Axis, Axis]
) -> Iterator[Markup]:
    if not points:
        return
    at, colour = [_at(point, scale) for point in points], n % COLOURS
    if len(at) > 1:
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in at)
        yield Markup('<path class="line c{0} d{0}" d="{1}"/>').format(colour, path)
    dot = Markup(
        '<circle class="dot c{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>'
    )
    for k, (place, point) in enumerate(zip(at, points, strict=True), 1):
        size = 5 if k == len(at) else 2.5
        yield dot.format(colour, *place, size, f"{clean(label)}: {_said(point)}")
    a, b = at[-1]
    beside = b - 7 if b > TOP + 14 else b + 16
    yield Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(a + 8, beside, n + 1)


def _at(point: Point, scale: tuple[Axis, Axis]) -> Point:
    return scale[0](point[0]), scale[1](point[1])


def _said(point: Point) -> str:
    return f"{number(point[1])} at {number(point[0])}"


def _words(metric: str) -> str:
    wanted = "" if metric in ("forget_quality", *UTILITY) else " (lower is better)"
    return metric.replace(".", " ").replace("_", " ") + wanted


def _legend(courses: Sequence[Course]) -> Markup:
    item = Markup(
        '<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
        '<circle class="dot c{0}" cx="14" cy="5" r="4"/></svg>{1} {2}</li>'
    )
    items = [item.format(n % COLOURS, n + 1, clean(c.label, 80)) for n, c in enumerate(courses)]
    items += [Markup("<li>□ target</li>"), Markup("<li>◇ retain reference</li>")]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
