"""Charts are well-formed SVG, and their points stand where the values say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from unlearn_cli.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Series,
    chart,
    distribution,
)


def path_of(svg: str) -> str:
    found = re.search(r'class="line c0 d0" d="([^"]+)"', svg)
    assert found
    return found[1]


def test_corners() -> None:
    """A line from (0, 0) to (1, 1) goes from the lower left of the plot to the upper right."""
    svg = chart("t", [Series("s", ((0.0, 0.0), (1.0, 1.0)))], "x")
    assert path_of(svg) == f"M{LEFT}.0 {HEIGHT - BOTTOM}.0L{WIDTH - RIGHT}.0 {TOP}.0"


def test_hostile_names_are_escaped() -> None:
    """Names of plugins cannot break out of the SVG, which stays well-formed XML."""
    evil = '<script>"&'
    svg = chart(evil, [Series(evil, ((0.0, 0.2), (5.0, 0.9)), reference=0.5)], evil, evil)
    root = ET.fromstring(svg)  # noqa: S314 - our own output
    assert root.find(".//script") is None
    assert root.findtext("figcaption") == evil


@pytest.mark.parametrize(
    "values", [(1.0, 1.0), (0.0, 0.0), (-5.0, 1e9), (1e-21, 0.4), (-3.0, -2.0)]
)
def test_any_range(values: tuple[float, float]) -> None:
    """Constant, negative, huge and tiny values are drawn inside the plot, with ticks."""
    svg = chart("t", [Series("s", tuple(enumerate(values)))], "step")
    ys = [float(cy) for cy in re.findall(r'cy="([^"]+)"', svg)]
    assert len(ys) == 2
    assert all(TOP <= y <= HEIGHT - BOTTOM for y in ys)
    assert svg.count('class="grid"') >= 2


def test_one_point() -> None:
    """A single evaluation is a chart too."""
    ET.fromstring(chart("t", [Series("s", ((3.0, 0.5),))], "step"))  # noqa: S314


def test_nothing_finite_is_no_chart() -> None:
    """Where no value is finite there is nothing to draw."""
    assert chart("t", [Series("s", ((0.0, math.nan), (1.0, math.inf))), Series("e", ())], "x") == ""


def test_long_runs_are_thinned() -> None:
    """A run of 100,000 steps is at most `MOST_POINTS` points and ends where it ended."""
    points = tuple((float(n), 1.0) for n in range(100_000))
    path = path_of(chart("t", [Series("s", points)], "step"))
    assert path.count("L") < MOST_POINTS
    assert path.endswith(f"L{WIDTH - RIGHT}.0 {path.split(' ')[-1]}")


def test_log_axis() -> None:
    """On a logarithmic axis 0.01 lies halfway between 0.0001 and 1."""
    axis = Axis(1e-4, 1.0, 0.0, 100.0, log=True)
    assert axis(1e-2) == pytest.approx(50.0)
    assert axis.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_linear_ticks() -> None:
    """Ticks are round and inside the axis."""
    assert Axis(0.0, 1.0, 0, 1).ticks() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis(-3.0, 12.0, 0, 1).ticks() == pytest.approx([0.0, 5.0, 10.0])


def test_distribution() -> None:
    """Of 3, 1, 1, 2 half is at most 1, three quarters at most 2, all at most 3."""
    expected = ((1.0, 0.0), (1.0, 0.5), (2.0, 0.75), (3.0, 1.0))
    assert distribution([3.0, 1.0, math.inf, 1.0, 2.0]) == expected
    assert distribution([]) == ()
