"""The contract of evaluators and metrics. Imports no torch: values are numpy arrays and floats.

An evaluator names the rows it wants scored (`probes`) and the metrics it wants from them; the
engine scores each row once, on all processes, and derives every metric from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unlearn_cli.api.data import Bundle, Row

Direction = Literal["higher", "lower", "reference"]
"""What an unlearned model should show: more, less, or the value of the retain reference."""
Answer = Literal["answer", "paraphrase", "perturbed"]


@dataclass(frozen=True, eq=False)
class AnswerScore:
    """How a model scores one answer of n tokens (end token included), teacher-forced."""

    token_logp: NDArray[np.float64]
    """(n,) nats."""
    correct: NDArray[np.bool_]
    """(n,) the most likely token is the label."""

    @property
    def mean_logp(self) -> float:
        """Mean log-probability of a token, nats: -M_i."""
        return float(self.token_logp.mean())

    @property
    def probability(self) -> float:
        """exp(-M_i), the length-normalised probability, in [0, 1]."""
        return float(np.exp(self.mean_logp))


@dataclass(frozen=True)
class Probe:
    """What an evaluator wants to know of one row."""

    set: str
    """Evaluation set, e.g. `forget`, `retain`, `real_authors`, `world_facts`."""
    row: Row
    score: tuple[Answer, ...] = ("answer",)
    generate: bool = True
    """Generate greedily from the prompt."""


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

    needs: ClassVar[frozenset[str]]
    """Of {"answer", "paraphrase", "perturbed", "generation"}."""
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

    def summary(self, table: Table, reference: Table | None) -> Number:
        """The figure, or a null with its reason."""
        ...


@runtime_checkable
class Evaluator(Protocol):
    """An evaluator plugin: a frozen dataclass whose fields are its options in `[[evaluate]]`."""

    @property
    def max_new_tokens(self) -> int:
        """Longest generation, tokens."""
        ...

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
