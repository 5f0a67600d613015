"""The contract of evaluators and metrics. Imports no torch: values are numpy arrays and floats.

An evaluator has one of three forms:

    Evaluator   names the rows it wants scored (`probes`) and the metrics it wants from them; the
                engine scores each row once, on all processes, and derives every metric from that
    Harness     measures the loaded model itself (`measure`): another library's benchmarks
    StressTest  takes another evaluator inside (`of`), changes the model (`change`) or the probes
                (`rewrite`), and has that evaluator measure again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.api.data import Bundle, Row

Direction = Literal["higher", "lower", "reference"]
"""What an unlearned model should show: more, less, or the value of the retain reference."""
Answer = Literal["answer", "paraphrase", "perturbed"]
"""Which answers of a row are scored: the true one, that in other words, the false ones."""
MetricName = Annotated[str, "metric"]
"""For options that name metrics: `unlearn check` says where there is none of that name. In a
mapping from names, what a name is mapped to are its options."""
EvaluatorName = Annotated[str, "evaluator"]
"""For options that name evaluators, as `MetricName` is for metrics."""
Need = Literal[
    "answer", "paraphrase", "perturbed", "generation", "samples", "distribution", "gradient"
]
"""What a row metric reads of a scored row. `distribution` and `gradient` are of the true answer:
`expected_logp` and `spread_logp`, and `gradient_norm`."""


def about_forget(set: str) -> bool:  # noqa: A002 - the field's own word
    """Whether an evaluation set is of what is to be forgotten: `forget`, `forget_knowmem`, ..."""
    return set == "forget" or set.startswith("forget_")


@dataclass(frozen=True, eq=False)
class AnswerScore:
    """How a model scores one answer of n tokens (end token included), teacher-forced."""

    token_logp: NDArray[np.float64]
    """(n,) nats."""
    correct: NDArray[np.bool_]
    """(n,) the most likely token is the label."""
    expected_logp: NDArray[np.float64] | None = None
    """(n,) mean of log p over the model's own distribution p at each position: minus its entropy,
    nats. None unless a metric of the set needs `distribution`."""
    spread_logp: NDArray[np.float64] | None = None
    """(n,) standard deviation of log p over the same, nats."""
    gradient_norm: float | None = None
    """Mean over the parameter tensors W of the L2 norm of dM/dW, M the mean loss of a token. None
    unless a metric of the set needs `gradient`."""

    @property
    def mean_logp(self) -> float:
        """Mean log-probability of a token, nats: -M_i."""
        return float(self.token_logp.mean())

    @property
    def probability(self) -> float:
        """exp(-M_i), the length-normalised probability, in [0, 1]."""
        return float(np.exp(self.mean_logp))


@dataclass(frozen=True)
class Decoding:
    """How a model continues a prompt."""

    max_new_tokens: int = 200
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts, and at an end token."""
    prefix: str = ""
    """Text that the answer is made to begin with; not part of what is returned."""
    samples: int = 0
    """Answers to draw; 0 takes the most likely token each time."""
    temperature: float = 1.0
    """Of the drawing."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with at least this probability."""


@dataclass(frozen=True)
class Probe:
    """What an evaluator wants to know of one row."""

    set: str
    """Evaluation set, e.g. `forget`, `retain`, `real_authors`, `world_facts`."""
    row: Row
    score: tuple[Answer, ...] = ("answer",)
    generate: Decoding | None = Decoding()
    """Answer the prompt, greedily."""
    draw: Decoding | None = None
    """Draw several answers."""


@dataclass(frozen=True, eq=False)
class ScoredRow:
    """What the engine found out about a probe; None or empty where it was not asked for, or where
    an answer has no token."""

    set: str
    row: Row
    answer: AnswerScore | None = None
    paraphrase: AnswerScore | None = None
    perturbed: tuple[AnswerScore, ...] = ()
    generation: str | None = None
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Number:
    """One aggregated figure; null values carry their reason."""

    value: float | None
    direction: Direction
    n: int = 0
    """Rows that entered."""
    skipped: int = 0
    """Rows whose value is null."""
    reason: str = ""
    """Why the value is null, and the command that would make it."""


@dataclass(frozen=True)
class Table:
    """Every number of one evaluation of one model."""

    rows: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    """set -> metric -> row id -> value."""
    numbers: Mapping[str, Number]
    """`set.metric` or `summary metric` -> aggregated figure, in display order."""
    notes: tuple[str, ...] = field(default=())


@runtime_checkable
class RowMetric(Protocol):
    """A metric with one value a row: a frozen dataclass."""

    needs: ClassVar[frozenset[Need]]
    on_forget: ClassVar[Direction]
    on_others: ClassVar[Direction]

    def value(self, row: ScoredRow) -> float | None:
        """The row's value; None where the row has not what it takes (never 0 for missing)."""
        ...

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """One figure from the values that are not None (at least one)."""
        ...


@runtime_checkable
class SummaryMetric(Protocol):
    """A metric over sets, or against the retain reference: a frozen dataclass."""

    def summary(self, table: Table, reference: Table | None) -> Number | Mapping[str, Number]:
        """The figure, or a null with its reason; of several, key -> figure, shown as
        `metric.key`."""
        ...


@runtime_checkable
class Evaluator(Protocol):
    """An evaluator plugin: a frozen dataclass whose fields are its options in `[[evaluate]]`."""

    def probes(self, data: Bundle) -> Sequence[Probe]:
        """The rows to score, in a fixed order."""
        ...

    def metrics(self, data: Bundle) -> Mapping[str, Sequence[str]]:
        """Set -> names of row metrics (entry points of `unlearn.metrics`), for the sets of
        `data` that have rows, in display order."""
        ...

    def metric_options(self) -> Mapping[str, Mapping[str, object]]:
        """Metric -> its options; a metric that is not named has its defaults."""
        ...

    def summaries(self) -> Sequence[str]:
        """Names of summary metrics, computed in this order after all row metrics."""
        ...


def _change_weight(parameter: Any, make: Callable[[Any], Any]) -> None:
    parameter.detach().copy_(make(parameter.detach()))


@dataclass(frozen=True)
class Subject:
    """A loaded model about to be measured or changed, with what belongs to it."""

    model: Any
    """The causal language model, on its device."""
    tokenizer: Any
    data: Bundle
    seed: int
    fine_tune: Callable[[Sequence[Row], Recipe], None]
    """Fine-tune the model in place on rows, on all processes: token mean of -log p, AdamW."""
    batch_size: int = 16
    """Rows in one forward pass of one process, as the spec says."""
    change_weight: Callable[[Any, Callable[[Any], Any]], None] = _change_weight
    """Make of a parameter what a function makes of its value: the whole one, also where the
    processes hold parts of it. All processes must call this, with the same function."""


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune in a stress test."""

    epochs: float = 1.0
    steps: int | None = None
    """Optimizer steps, instead of epochs."""
    batch_size: int = 32
    learning_rate: float = 2e-5


@runtime_checkable
class Harness(Protocol):
    """An evaluator that measures the loaded model itself, on every process or on one."""

    def measure(self, subject: Subject) -> Table:
        """Every figure; may be asked of every process, and must give the same on each."""
        ...


@runtime_checkable
class StressTest(Protocol):
    """An evaluator that makes it harder and has another measure again.

    It has one of two more functions. `change(subject: Subject) -> None` alters the model in place;
    the engine restores it afterwards, to the bit. `rewrite(probe: Probe) -> Probe | None` alters
    what the inner evaluator asks; None leaves the probe out. The retain reference is treated alike,
    as control. The target and checkpoints on the way are not stressed.

    `unlearn run --dry-run` counts what `change` takes by calling it on a model without data
    (torch's fake tensors), with a `fine_tune` that notes rows and recipe. So there is nothing to
    declare, and a change does nothing but change the model; one that looks at its values is listed
    as not foreseen.
    """

    @property
    def of(self) -> str:
        """The evaluator inside, with the options that the spec gives it."""
        ...
