"""Events as they come in: a live display on a terminal, plain timed lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unlearn_cli.console.terminal import Signs, literal
from unlearn_cli.events import (
    CheckpointSaved,
    EvaluationDone,
    Event,
    Listener,
    Notice,
    RunFailed,
    RunStarted,
    StageFinished,
    StageProgress,
    StageStarted,
    StepDone,
)
from unlearn_cli.report.words import (
    duration,
    number,
    size,
)
from unlearn_cli.safe_text import clean
from unlearn_cli.streams import unheard

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


class LiveListener:
    """What has ended scrolls away above; what runs is redrawn below it."""

    def __init__(self, console: RichConsole, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.stages = _Stages(clock)
        self.signs = Signs(console)

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
    # A fixed file: whoever silences a library by redirecting stderr does not silence this.
    console = literal(file=sys.stderr)
    if json or not console.is_terminal or console.is_dumb_terminal:
        console = literal(file=sys.stderr, width=200)
        yield PlainListener(console)
        return
    listener = LiveListener(console)
    live = Live(
        get_renderable=listener.__rich__,
        console=console,
        refresh_per_second=5,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with unheard():
        live.start()
    try:
        yield listener
    finally:
        with unheard():
            live.stop()


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
