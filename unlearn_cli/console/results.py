"""Results on stdout: figures of models, answers, the verdict, plans and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unlearn_cli.api.evaluate import Number
from unlearn_cli.console.terminal import Signs, legend, stdout
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import (
    RunFinished,
    Sample,
)
from unlearn_cli.report.words import (
    UNDER_STRESS,
    Cell,
    MetricRow,
    brief,
    compare,
    footnotes,
    is_stress,
    number,
)
from unlearn_cli.safe_text import clean

VERDICT_STYLES = {"forgotten": "bold green", "unknown": "bold yellow"}
ANSWER_LIMIT = 300
SAMPLES_SHOWN = 3


def print_result(
    target: Evaluation | None,
    after: Evaluation,
    reference: Evaluation | None,
    finished: RunFinished,
    others: Sequence[tuple[Evaluation, Evaluation | None]] = (),
) -> None:
    """The end of a run on stdout: table, answers before and after, verdict, paths.

    Args:
        target: the model before, by the first evaluator.
        after: the unlearned model, by the first evaluator.
        reference: the retain reference, by the first evaluator.
        finished: the verdict and what belongs to it.
        others: what further evaluators say of the unlearned model and of the retain reference.
    """
    console = stdout()
    missing = ("the target was not evaluated", "", "there is no retain reference")
    columns = ("before", "after", "retain reference")
    rows = compare((target, after, reference), missing)
    shown = brief(rows)
    _print_metrics(console, columns, shown)
    if left := len(rows) - len(shown):
        console.print(Text(f"{left} more figures, of the attacks' inputs, in the report\n", "dim"))
    tests = [pair for pair in others if is_stress(pair[0])]
    for evaluation, control in (pair for pair in others if pair not in tests):
        console.print(Text(clean(evaluation.evaluator), "bold"))
        _print_metrics(console, columns[1:], compare((evaluation, control), missing[1:]))
    _print_stress(console, tests)
    _print_samples(console, finished.samples[:SAMPLES_SHOWN])
    style = VERDICT_STYLES.get(finished.verdict, "bold red")
    console.print(Text.assemble("Verdict: ", (clean(finished.verdict), style)))
    console.print(Text(clean(finished.explanation)))
    for line in finished.missed:
        console.print(Text.assemble(("Missed: ", "bold red"), clean(line)))
    console.print()
    folder = clean(finished.folder).rstrip("/")
    for name, path in (("model", f"{folder}/model"), ("report", f"{folder}/report.html")):
        console.print(Text(f"{name:<8}{path}"), soft_wrap=True)


def print_table(evaluation: Evaluation, reference: Evaluation | None = None) -> None:
    """One evaluation on stdout, beside the retain reference where there is one."""
    models = (evaluation,) if reference is None else (evaluation, reference)
    columns = ("value", "retain reference")[: len(models)]
    _print_metrics(stdout(), columns, compare(models, ("", "")[: len(models)]))


def print_plan(lines: Sequence[str]) -> None:
    """Lines of a plan on stdout, as they are but safe."""
    console = stdout()
    for line in lines:
        console.print(Text(clean(line, keep_newlines=True)), soft_wrap=True)


def print_tokens(title: str, pieces: Sequence[tuple[str, bool]]) -> None:
    """Text on stdout with the tokens that carry loss marked: reversed, or in ⟦ ⟧ without colour.

    Args:
        title: what the text is.
        pieces: (text of a token, it carries loss), in order.
    """
    console = stdout()
    signs = Signs(console)
    start, end = ("", "") if console.color_system else signs.brackets
    text = Text()
    for labelled, run in groupby(pieces, key=lambda piece: piece[1]):
        joined = "".join(piece for piece, _ in run).replace("\n", f"{signs.newline}\n")
        span = clean(joined, keep_newlines=True)
        text.append(f"{start}{span}{end}" if labelled else span, "reverse" if labelled else "")
    console.print(Text(clean(title), "bold"))
    console.print(Padding(text, (0, 0, 1, 2)))


def _print_metrics(console: RichConsole, columns: Sequence[str], rows: Sequence[MetricRow]) -> None:
    signs = Signs(console)
    notes = footnotes(rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("metric", overflow="fold")
    table.add_column("", justify="center")
    for column in columns:
        table.add_column(column, justify="right", style="bold" if column == "after" else "")
    for row in rows:
        cells = (_noted(cell, notes, signs) for cell in row.cells)
        table.add_row(Text(row.name), signs.wanted[row.direction], *cells)
    console.print(table)
    console.print(Text(legend(signs), "dim"))
    for n, note in enumerate(notes, 1):
        console.print(Text(f"[{n}] {note}", "dim"))
    console.print()


def _print_stress(
    console: RichConsole, tests: Sequence[tuple[Evaluation, Evaluation | None]]
) -> None:
    """A row a stress test; in brackets the retain reference under the same test."""
    if not tests:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("under stress (retain reference alike)", overflow="fold")
    for name in UNDER_STRESS:
        table.add_column(name, justify="right")
    for pair in tests:
        cells = ([e.table.numbers.get(name) if e else None for e in pair] for name in UNDER_STRESS)
        shown = (" ".join(_bracketed(figures)) for figures in cells)
        table.add_row(Text(clean(pair[0].evaluator)), *map(Text, shown))
    console.print(table)


def _bracketed(figures: Sequence[Number | None]) -> Iterator[str]:
    after, control = (number(f.value) if f and f.value is not None else "" for f in figures)
    yield after or "-"
    if control:
        yield f"({control})"


def _noted(cell: Cell, notes: Sequence[str], signs: Signs) -> Text:
    mark = f" [{notes.index(cell.reason) + 1}]" if cell.reason else ""
    return Text(cell.text.replace("–", signs.dash) + mark)


def _print_samples(console: RichConsole, samples: Sequence[Sample]) -> None:
    for sample in samples:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name in ("truth", "before", "after"):
            answer = clean(getattr(sample, name), ANSWER_LIMIT)
            grid.add_row(f"  {name}", Text(answer or "(empty)"))
        console.print(Text(clean(sample.question, ANSWER_LIMIT), "bold"))
        console.print(grid)
        console.print()
