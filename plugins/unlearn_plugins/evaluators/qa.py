"""Own data, measured with metrics of choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Le

from unlearn_cli.api import Bundle, Decoding, MetricName, Probe, Row
from unlearn_cli.api.evaluate import Answer
from unlearn_cli.errors import DataError

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")


@dataclass(frozen=True)
class QA:
    """Any rows, with the metrics that you name.

    Every set of the data, or those that are named, is scored: the answer, and the paraphrase
    and the false answers where a row has them. Rows of plain text are scored and not answered.
    Where there is a holdout, the membership inference attacks are run between it and the forget
    set.
    """

    row_metrics: tuple[MetricName, ...] = (
        "probability",
        "rouge",
        "extraction_strength",
        "exact_memorization",
    )
    """Metrics with a value a row (`unlearn list-metrics`), for every set."""
    summary_metrics: tuple[MetricName, ...] = ()
    """Metrics over sets, such as `forget_quality`."""
    options: Mapping[MetricName, Mapping[str, object]] = field(default_factory=dict)
    """Options of metrics, in tables `[evaluate.options.METRIC]`."""
    sets: tuple[str, ...] | None = None
    """Names of the sets; all that have rows where it is not given."""
    rows: Annotated[int, Gt(0)] | None = None
    """Measure the first so many rows of each set."""
    attacks: bool = True
    """Run the attacks where there is a holdout."""
    generate: bool = True
    """Answer the prompts."""
    max_new_tokens: Annotated[int, Gt(0)] = 200
    """Longest answer, tokens."""
    samples: Annotated[int, Ge(0)] = 0
    """Answers to draw for each prompt, for metrics such as `leak_at_k`."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Of the drawing."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the likeliest tokens that have this probability together."""

    def probes(self, data: Bundle) -> Sequence[Probe]:
        """The rows of each set, in order."""
        return [self._probe(s, row) for s in self._sets(data) for row in data.rows(s)[: self.rows]]

    def metrics(self, data: Bundle) -> Mapping[str, Sequence[str]]:
        """Those of the option, and between forget and holdout the attacks."""
        attacked = ("forget", "holdout") if self.attacks and data.holdout else ()
        return {
            name: tuple(dict.fromkeys((*self.row_metrics, *(ATTACKS if name in attacked else ()))))
            for name in self._sets(data)
        }

    def metric_options(self) -> Mapping[str, Mapping[str, object]]:
        """Those of the option."""
        return self.options

    def summaries(self) -> Sequence[str]:
        """Those of the option, and what the attacks found."""
        return tuple(dict.fromkeys((*self.summary_metrics, *(("mia",) if self.attacks else ()))))

    def _sets(self, data: Bundle) -> list[str]:
        names = ("forget", "retain", "holdout", *data.evaluation)
        there = [name for name in dict.fromkeys(names) if data.rows(name)]
        if missing := [name for name in self.sets or () if name not in there]:
            raise DataError(
                f"no rows for the set {', '.join(missing)}",
                where="[[evaluate]].sets",
                hint=f"there is {', '.join(there)}",
            )
        return [name for name in there if self.sets is None or name in self.sets]

    def _probe(self, name: str, row: Row) -> Probe:
        answers: tuple[Answer, ...] = ("answer",)
        answers += ("paraphrase",) if row.paraphrase else ()
        answers += ("perturbed",) if row.perturbed else ()
        asked = row.kind != "text"
        greedy = Decoding(self.max_new_tokens) if asked and self.generate else None
        return Probe(name, row, answers, greedy, self._drawing if asked else None)

    @property
    def _drawing(self) -> Decoding | None:
        if not self.samples:
            return None
        return Decoding(
            self.max_new_tokens,
            samples=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
        )
