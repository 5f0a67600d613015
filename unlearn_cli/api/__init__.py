"""What plugin authors import, and nothing else.

`data` and `evaluate` import no torch; `scores` and `hidden` do. `Scores` is therefore reached as
`from unlearn_cli.api.scores import Scores`, and `Hidden` likewise.
"""

from unlearn_cli.api.data import (
    Bundle,
    DataContext,
    Dataset,
    Keep,
    Location,
    Message,
    Reading,
    Row,
    RowKind,
    Split,
)
from unlearn_cli.api.evaluate import (
    Answer,
    AnswerScore,
    Decoding,
    Direction,
    Evaluator,
    EvaluatorName,
    Harness,
    MetricName,
    Need,
    Number,
    Probe,
    Recipe,
    RowMetric,
    ScoredRow,
    StressTest,
    Subject,
    SummaryMetric,
    Table,
    about_forget,
)
from unlearn_cli.api.method import Method, MethodDefaults, Progress, RetainTerm, Weights

API_VERSION = "1.3.0"
"""Version of all that plugins import: this package, and `hooks`, `events`, `errors` and `testing`
of `unlearn_cli`, and what hooks are given, as `docs/reference/api.md` lists it. Semantic: the first
number rises where something is gone or means something else, the second where something is added,
the third where a fault is repaired."""

__all__ = [
    "API_VERSION",
    "Answer",
    "AnswerScore",
    "Bundle",
    "DataContext",
    "Dataset",
    "Decoding",
    "Direction",
    "Evaluator",
    "EvaluatorName",
    "Harness",
    "Keep",
    "Location",
    "Message",
    "Method",
    "MethodDefaults",
    "MetricName",
    "Need",
    "Number",
    "Probe",
    "Progress",
    "Reading",
    "Recipe",
    "RetainTerm",
    "Row",
    "RowKind",
    "RowMetric",
    "ScoredRow",
    "Split",
    "StressTest",
    "Subject",
    "SummaryMetric",
    "Table",
    "Weights",
    "about_forget",
]
