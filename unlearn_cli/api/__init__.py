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
    Split,
)
from unlearn_cli.api.evaluate import (
    AnswerScore,
    Decoding,
    Evaluator,
    Harness,
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
from unlearn_cli.api.method import Method, MethodDefaults, Progress, Weights

__all__ = [
    "AnswerScore",
    "Bundle",
    "DataContext",
    "Dataset",
    "Decoding",
    "Evaluator",
    "Harness",
    "Keep",
    "Location",
    "Message",
    "Method",
    "MethodDefaults",
    "Number",
    "Probe",
    "Progress",
    "Reading",
    "Recipe",
    "Row",
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
