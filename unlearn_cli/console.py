"""Events on a terminal: a live display there, plain timed lines elsewhere.

The only file that imports rich. Progress goes to stderr, results to stdout. Whatever a model, a
data set or a plugin wrote passes through `clean`, so that it cannot steer the terminal.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unlearn_cli.api.evaluate import Number
from unlearn_cli.compare import HEADLINES, Comparison, Mean
from unlearn_cli.compare import Group as RunGroup
from unlearn_cli.events import (
    CheckpointSaved,
    EvaluationDone,
    Event,
    Listener,
    Notice,
    RunFailed,
    RunFinished,
    RunStarted,
    Sample,
    StageFinished,
    StageProgress,
    StageStarted,
    StepDone,
)
from unlearn_cli.meta import Meta
from unlearn_cli.report.words import (
    WANTED,
    Cell,
    MetricRow,
    clean,
    compare,
    duration,
    footnotes,
    number,
    size,
)
from unlearn_cli.runs import Evaluation

VERDICT_STYLES = {"forgotten": "bold green", "unknown": "bold yellow"}
UNDER_STRESS = ("forget_quality", "forget.probability", "forget.rouge")
ANSWER_LIMIT = 300
SAMPLES_SHOWN = 3
GROUPS_ABREAST = 4
SHARE_BETWEEN_LINES = 0.1
SECONDS_BETWEEN_LINES = 2.0
LONGEST_SILENCE = 30.0  # seconds, for runs whose every tenth takes hours


@dataclass
class _Stage:
    """A stage that runs."""

    stage: str
    title: str
    total: int | None
    unit: str
    started: float
    done: int = 0
    first: tuple[int, float] | None = None
    """Progress and time of the first report: a resumed stage does not begin at 0."""
    step: StepDone | None = None
    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=20))
    """(tokens, seconds) of the latest steps."""

    def progress(self, done: int, now: float) -> None:
        self.done = done
        self.first = self.first or (done, now)

    def record(self, step: StepDone, now: float) -> None:
        self.step, self.total = step, step.total
        self.recent.append((step.tokens, step.seconds))
        self.progress(step.step, now)

    @property
    def tokens_per_second(self) -> float:
        recent = tuple(self.recent)  # a copy: the display's thread reads while the run appends
        seconds = sum(taken for _, taken in recent)
        return sum(tokens for tokens, _ in recent) / seconds if seconds else 0.0

    def seconds_left(self, now: float) -> float | None:
        """From the pace since the first report; None where there is none yet."""
        if self.first is None or not self.total or self.done <= self.first[0]:
            return None
        pace = (now - self.first[1]) / (self.done - self.first[0])
        return max(0.0, pace * (self.total - self.done))


class _Stages:
    """The stages that run, the innermost last: an evaluation may interrupt training."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.running: list[_Stage] = []

    def find(self, name: str) -> _Stage | None:
        return next((stage for stage in reversed(self.running) if stage.stage == name), None)

    def update(self, event: Event) -> _Stage | None:
        """Take the event in; the stage it concerns, also when that has just ended."""
        now = self.clock()
        if isinstance(event, StageStarted):
            title = clean(event.title)
            stage = _Stage(event.stage, title, event.total, clean(event.unit), now)
            self.running.append(stage)
            return stage
        if not isinstance(event, StageProgress | StepDone | StageFinished):
            return None
        found = self.find(event.stage)
        if found is not None and isinstance(event, StageProgress):
            found.progress(event.done, now)
        elif found is not None and isinstance(event, StepDone):
            found.record(event, now)
        elif found is not None:
            self.running.remove(found)
        return found


class _Signs:
    """The characters that the terminal's encoding can show."""

    def __init__(self, console: RichConsole) -> None:
        self.ascii = not console.encoding.lower().startswith("utf")
        self.tick, self.dot, self.warning = ("*", "|", "!") if self.ascii else ("✓", "·", "!")
        self.dash = "-" if self.ascii else "–"
        self.plus_minus = "+-" if self.ascii else "±"
        self.brackets = ("[[", "]]") if self.ascii else ("⟦", "⟧")
        self.newline = "\\n" if self.ascii else "↵"
        fallback = {"lower": "v", "higher": "^", "reference": "="}
        self.wanted = {
            direction: fallback[direction] if self.ascii else sign
            for direction, (sign, _) in WANTED.items()
        }


class LiveListener:
    """What has ended scrolls away above; what runs is redrawn below it."""

    def __init__(self, console: RichConsole, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.stages = _Stages(clock)
        self.signs = _Signs(console)

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        stage = self.stages.update(event)
        if isinstance(event, StageFinished) and stage is not None:
            self.console.print(self._finished(stage, event))
        elif line := _line(event):
            style = "yellow" if isinstance(event, Notice) else "dim"
            mark = self.signs.warning if isinstance(event, Notice) else self.signs.dot
            self.console.print(Text(f"{mark} {line}", style))

    def _finished(self, stage: _Stage, event: StageFinished) -> Text:
        taken = "cached" if event.cached else duration(event.seconds)
        return Text.assemble((f"{self.signs.tick} ", "green"), stage.title, (f"  {taken}", "dim"))

    def __rich__(self) -> RenderableType:
        """The stages that run; the figures of the latest step under the one that has them."""
        return Group(*(part for stage in (*self.stages.running,) for part in self._running(stage)))

    def _running(self, stage: _Stage) -> Iterator[RenderableType]:
        now = self.clock()
        line = Table.grid(padding=(0, 1))
        line.add_row(*self._bar(stage, now))
        yield line
        if stage.step is not None:
            figures = f" {self.signs.dot} ".join(_figures(stage))
            yield Text("  " + figures, "cyan", no_wrap=True, overflow="ellipsis")

    def _bar(self, stage: _Stage, now: float) -> Iterator[RenderableType]:
        yield Text(clean(stage.title, max(12, self.console.width - 62)), "bold", no_wrap=True)
        if not stage.total:
            yield Text(duration(now - stage.started), "dim")
            return
        width = max(8, min(24, self.console.width - 60))
        yield ProgressBar(stage.total, stage.done, width=width)
        yield Text(f"{stage.done}/{stage.total} {stage.unit}", no_wrap=True)
        left = stage.seconds_left(now)
        yield Text("" if left is None else f"{duration(left)} left", "dim", no_wrap=True)


class PlainListener:
    """One timed line an event; steps only now and then."""

    def __init__(self, console: RichConsole, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.started = clock()
        self.stages = _Stages(clock)
        self.printed: dict[str, tuple[int, float]] = {}

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        stage = self.stages.update(event)
        if isinstance(event, StageStarted) and stage is not None:
            self.printed[stage.stage] = (0, self.clock())
            self._print(f"{stage.title} ...")
        elif isinstance(event, StageFinished) and stage is not None:
            taken = "cached" if event.cached else f"done in {duration(event.seconds)}"
            self._print(f"{stage.title}: {taken}")
        elif isinstance(event, StepDone | StageProgress) and stage is not None:
            self._step(stage)
        elif line := _line(event):
            self._print(line)

    def _step(self, stage: _Stage) -> None:
        now = self.clock()
        done, at = self.printed.get(stage.stage, (0, self.started))
        share = (stage.done - done) / stage.total if stage.total else 0.0
        far_enough = share >= SHARE_BETWEEN_LINES and now - at >= SECONDS_BETWEEN_LINES
        if not (far_enough or now - at >= LONGEST_SILENCE):
            return
        self.printed[stage.stage] = (stage.done, now)
        total = f"/{stage.total}" if stage.total else ""
        figures = [f"{stage.stage}: {stage.done}{total} {stage.unit}", *_figures(stage)]
        left = stage.seconds_left(now)
        self._print(", ".join(figures if left is None else [*figures, f"{duration(left)} left"]))

    def _print(self, line: str) -> None:
        text = Text(f"[{self.clock() - self.started:.1f}s] {line}")
        self.console.print(text, soft_wrap=True, highlight=False)


@contextmanager
def open_console(*, json: bool = False) -> Iterator[Listener]:
    """A listener that shows a run on stderr; the terminal is restored however the block ends.

    Args:
        json: the caller reads stdout by machine: plain lines, no live display.
    """
    console = RichConsole(stderr=True, highlight=False)
    if json or not console.is_terminal or console.is_dumb_terminal:
        console = RichConsole(stderr=True, highlight=False, width=200)
        yield PlainListener(console)
        return
    listener = LiveListener(console)
    with Live(
        get_renderable=listener.__rich__,
        console=console,
        refresh_per_second=5,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield listener


def _line(event: Event) -> str | None:
    """Events that are one line wherever they are shown."""
    if isinstance(event, RunStarted):
        resumed = "" if event.resumed_from is None else f", resumed at step {event.resumed_from}"
        processes = "" if event.processes == 1 else f", {event.processes} processes"
        what = f"{event.name}: {event.method} on {event.device}{processes}{resumed}"
        return clean(f"{what}, in {event.folder}")
    if isinstance(event, EvaluationDone):
        what = f"evaluated {event.label} by {event.evaluator} at step {event.step}"
        return clean(f"{what}: {_headline(event)}")
    if isinstance(event, CheckpointSaved):
        return clean(f"checkpoint {event.path}{' (best so far)' if event.best else ''}")
    if isinstance(event, Notice):
        return clean(event.text)
    return clean(f"failed: {event.error}") if isinstance(event, RunFailed) else None


def _headline(event: EvaluationDone) -> str:
    """The figures over all sets; where an evaluator has none, the first three it has."""
    known = {k: n.value for k, n in event.table.numbers.items() if n.value is not None}
    chosen = {k: value for k, value in known.items() if "." not in k} or dict([*known.items()][:3])
    return ", ".join(f"{name} {number(value)}" for name, value in chosen.items())


def _figures(stage: _Stage) -> list[str]:
    """What the latest optimizer step says."""
    if (step := stage.step) is None:
        return []
    losses = [f"{clean(name)} {number(value)}" for name, value in step.losses.items()]
    return [
        " ".join(["loss", *losses]),
        f"lr {step.learning_rate:.2e}",
        f"grad {number(step.gradient_norm)}",
        f"{stage.tokens_per_second:,.0f} tokens/s",
        size(step.memory_bytes),
    ]


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
    console = _stdout()
    missing = ("the target was not evaluated", "", "there is no retain reference")
    columns = ("before", "after", "retain reference")
    rows = compare((target, after, reference), missing)
    brief = _brief(rows)
    _print_metrics(console, columns, brief)
    if left := len(rows) - len(brief):
        console.print(Text(f"{left} more figures, of the attacks' inputs, in the report", "dim"))
    tests = [pair for pair in others if "inside" in pair[0].settings]
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
    _print_metrics(_stdout(), columns, compare(models, ("", "")[: len(models)]))


def print_plan(lines: Sequence[str]) -> None:
    """Lines of a plan on stdout, as they are but safe."""
    console = _stdout()
    for line in lines:
        console.print(Text(clean(line, keep_newlines=True)), soft_wrap=True)


def print_tokens(title: str, pieces: Sequence[tuple[str, bool]]) -> None:
    """Text on stdout with the tokens that carry loss marked: reversed, or in ⟦ ⟧ without colour.

    Args:
        title: what the text is.
        pieces: (text of a token, it carries loss), in order.
    """
    console = _stdout()
    signs = _Signs(console)
    start, end = ("", "") if console.color_system else signs.brackets
    text = Text()
    for labelled, run in groupby(pieces, key=lambda piece: piece[1]):
        joined = "".join(piece for piece, _ in run).replace("\n", f"{signs.newline}\n")
        span = clean(joined, keep_newlines=True)
        text.append(f"{start}{span}{end}" if labelled else span, "reverse" if labelled else "")
    console.print(Text(clean(title), "bold"))
    console.print(Padding(text, (0, 0, 1, 2)))


def _stdout() -> RichConsole:
    """The console for results. Where stdout is a file or a pipe, wide enough not to cut."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what the encoding cannot
    console = RichConsole(highlight=False)
    return console if console.is_terminal else RichConsole(highlight=False, width=120)


def _print_metrics(console: RichConsole, columns: Sequence[str], rows: Sequence[MetricRow]) -> None:
    signs = _Signs(console)
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
    console.print(Text(_legend(signs), "dim"))
    for n, note in enumerate(notes, 1):
        console.print(Text(f"[{n}] {note}", "dim"))
    console.print()


def _brief(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Without what only feeds the attacks: the holdout, what the forget set has in common with it,
    and the second figure of each attack."""
    fed = {row.name.partition(".")[2] for row in rows if row.name.startswith("holdout.")}
    inputs = {f"{set_}.{name}" for set_ in ("forget", "holdout") for name in fed}
    return [r for r in rows if r.name not in inputs and not r.name.endswith("_fpr")]


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


def _noted(cell: Cell, notes: Sequence[str], signs: _Signs) -> Text:
    mark = f" [{notes.index(cell.reason) + 1}]" if cell.reason else ""
    return Text(cell.text.replace("–", signs.dash) + mark)


def _legend(signs: _Signs) -> str:
    return "   ".join(f"{signs.wanted[way]} {meaning}" for way, (_, meaning) in WANTED.items())


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


def print_meta(meta: Meta) -> None:
    """How far each metric can be trusted, on stdout."""
    console = _stdout()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("metric", overflow="fold")
    for column in ("faithful", "relearn", "quantize", "robust", "overall"):
        table.add_column(column, justify="right")
    for t in meta.metrics:
        figures = (t.faithfulness, t.relearning, t.quantization, t.robustness, t.overall)
        shown = (_Signs(console).dash if f is None else f"{f:.2f}" for f in figures)
        table.add_row(Text(clean(t.metric)), *map(Text, shown))
    console.print(table)
    models = f"{meta.knowing} models that know, {meta.ignorant} that do not"
    console.print(Text(f"{models}; stress tests of {meta.stressed} unlearned ones", "dim"))


def print_comparison(comparison: Comparison) -> None:
    """Groups of runs on stdout: headlines, every metric, what is beyond noise, what to know."""
    console = _stdout()
    signs = _Signs(console)
    groups = comparison.groups
    headlines = [name for name in HEADLINES if name in comparison.metrics]
    _print_headlines(console, signs, comparison, headlines)
    for start in range(0, len(groups), GROUPS_ABREAST):
        _print_means(console, signs, comparison, groups[start : start + GROUPS_ABREAST])
    console.print(Text(_legend(signs), "dim"))
    for line in (*_said_of_noise(comparison), *comparison.untested, *comparison.notes):
        console.print(Text(clean(line)))


def _print_headlines(
    console: RichConsole, signs: _Signs, comparison: Comparison, names: Sequence[str]
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
    console: RichConsole, signs: _Signs, comparison: Comparison, groups: Sequence[RunGroup]
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


def _interval(figure: Mean | None, signs: _Signs) -> Text:
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
