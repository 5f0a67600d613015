"""Results of many runs on stdout: what compares them, and how far metrics can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from unlearn_cli.compare import HEADLINES, Comparison, Mean
from unlearn_cli.compare import Group as RunGroup
from unlearn_cli.console.terminal import Signs, legend, stdout
from unlearn_cli.meta import Meta
from unlearn_cli.report.words import (
    number,
)
from unlearn_cli.safe_text import clean

GROUPS_ABREAST = 4


def print_meta(meta: Meta) -> None:
    """How far each metric can be trusted, on stdout."""
    console = stdout()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("metric", overflow="fold")
    for column in ("faithful", "relearn", "quantize", "robust", "overall"):
        table.add_column(column, justify="right")
    for t in meta.metrics:
        figures = (t.faithfulness, t.relearning, t.quantization, t.robustness, t.overall)
        shown = (Signs(console).dash if f is None else f"{f:.2f}" for f in figures)
        table.add_row(Text(clean(t.metric)), *map(Text, shown))
    console.print(table)
    models = f"{meta.knowing} models that know, {meta.ignorant} that do not"
    console.print(Text(f"{models}; stress tests of {meta.stressed} unlearned ones", "dim"))


def print_comparison(comparison: Comparison) -> None:
    """Groups of runs on stdout: headlines, every metric, what is beyond noise, what to know."""
    console = stdout()
    signs = Signs(console)
    groups = comparison.groups
    headlines = [name for name in HEADLINES if name in comparison.metrics]
    _print_headlines(console, signs, comparison, headlines)
    for start in range(0, len(groups), GROUPS_ABREAST):
        _print_means(console, signs, comparison, groups[start : start + GROUPS_ABREAST])
    console.print(Text(legend(signs), "dim"))
    for line in (*_said_of_noise(comparison), *comparison.untested, *comparison.notes):
        console.print(Text(clean(line)))


def _print_headlines(
    console: RichConsole, signs: Signs, comparison: Comparison, names: Sequence[str]
) -> None:
    """A row a group; above it the target before unlearning, once where all groups share it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for name in names:
        words = name.replace(".", " ").replace("_", " ")
        table.add_column(f"{words} {signs.wanted[comparison.metrics[name]]}", justify="right")
    table.add_column("seeds", justify="right")
    table.add_column("verdicts", overflow="fold")
    befores = [
        [_interval(group.before.get(name), signs) for name in names] for group in comparison.groups
    ]
    shared = all(before == befores[0] for before in befores)
    for n, group in enumerate(comparison.groups):
        if n == 0 or not shared:
            what = "before" if shared else f"before {clean(group.label)}"
            table.add_row(Text(what, "dim"), *befores[n])
        verdicts = ", ".join(f"{count} {name}" for name, count in group.verdicts.items())
        cells = (_interval(group.after.get(name), signs) for name in names)
        table.add_row(Text(clean(group.label)), *cells, str(len(group.seeds)), clean(verdicts))
    console.print(table)


def _print_means(
    console: RichConsole, signs: Signs, comparison: Comparison, groups: Sequence[RunGroup]
) -> None:
    """A row a metric, a column a group."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("metric", overflow="fold")
    table.add_column("", justify="center")
    for group in groups:
        table.add_column(Text(clean(group.label)), justify="right", overflow="fold")
    for name, direction in comparison.metrics.items():
        cells = (_interval(group.after.get(name), signs) for group in groups)
        table.add_row(Text(clean(name)), signs.wanted[direction], *cells)
    console.print(table)


def _interval(figure: Mean | None, signs: Signs) -> Text:
    """Mean and half the confidence interval; from one seed, the value alone."""
    if figure is None or figure.mean is None:
        return Text(signs.dash)
    spread = "" if figure.half_width is None else f" {signs.plus_minus} {number(figure.half_width)}"
    return Text(f"{number(figure.mean)}{spread}")


def _said_of_noise(comparison: Comparison) -> Iterator[str]:
    """A line for each difference beyond noise, and how many are not."""
    beyond = [found for found in comparison.differences if found.beyond_noise]
    for found in beyond:
        yield (
            f"Beyond noise: {found.metric}, {found.one} against {found.other}: "
            f"{found.difference:+.3g} (p = {found.corrected:.2g})"
        )
    if comparison.differences:
        tested = len(comparison.differences)
        yield (
            f"{len(beyond)} of {tested} differences are beyond noise (Welch's t-test over seeds, "
            "p below 0.05 after Holm's correction over the pairs of a metric)."
        )
