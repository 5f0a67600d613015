"""What the engine says. The engine never prints: it emits these, and whoever listens renders them.

Units: seconds, bytes, tokens, steps (optimizer steps); losses in nats unless a method says
otherwise. Only the main process emits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from unlearn_cli.api.evaluate import Table


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins or is resumed."""

    name: str
    folder: str
    method: str
    device: str
    processes: int
    resumed_from: int | None = None
    """Step of the checkpoint, when resumed."""


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins: `target`, `retain_reference`, `reference_pass`, `train`, `evaluate`, ..."""

    stage: str
    title: str
    """For people, e.g. `Fine-tune the target on forget + retain`."""
    total: int | None = None
    unit: str = "steps"


@dataclass(frozen=True)
class StageProgress(Event):
    """`done` of the stage's total is finished."""

    stage: str
    done: int


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage ended."""

    stage: str
    seconds: float
    cached: bool = False
    """True where the result was found and nothing was computed."""


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer step is done. Loss terms are means over the global batch."""

    stage: str
    """`target`, `retain_reference` or `train`."""
    step: int
    total: int
    epoch: float
    losses: Mapping[str, float]
    """`total`, and each term, unweighted: `forget`, `retain`."""
    learning_rate: float
    gradient_norm: float
    tokens: int
    """Non-padding tokens through the model in this step, all processes."""
    seconds: float
    memory_bytes: int
    """Peak of the accelerator, or resident memory of the main process on CPU."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What each term was multiplied with in this step."""


@dataclass(frozen=True)
class EvaluationDone(Event):
    """A model was evaluated."""

    evaluator: str
    label: str
    """`target` (before), `retain_reference`, `checkpoint`, `unlearned` (after), `model`
    or `again` (of a verification)."""
    step: int
    table: Table
    path: str = ""
    """JSON file with a value for every row, relative to the run folder."""


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on disk."""

    step: int
    path: str
    best: bool = False


@dataclass(frozen=True)
class Notice(Event):
    """Something the user should know; the run goes on."""

    text: str


@dataclass(frozen=True)
class Sample(Event):
    """One forget question, answered before and after."""

    question: str
    truth: str
    before: str
    after: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The run worked and everything is written."""

    verdict: str
    """`forgotten`, `recoverable`, `not forgotten`, `over-forgotten`, `collapsed` or `unknown`."""
    explanation: str
    """The verdict in words, with the numbers behind it."""
    folder: str
    seconds: float
    samples: tuple[Sample, ...] = field(default=())
    missed: tuple[str, ...] = ()
    """What the spec requires and the result does not show."""


@dataclass(frozen=True)
class RunFailed(Event):
    """The run stopped with an error."""

    error: str


Listener = Callable[[Event], None]
