"""What plugin authors import, and nothing else.

`data` and `evaluate` import no torch; `scores` does. `Scores` is therefore reached as
`from unlearn_cli.api.scores import Scores`.
"""

from unlearn_cli.api.data import Bundle, DataContext, Dataset, Location, Message, Row
from unlearn_cli.api.evaluate import (
    AnswerScore,
    Evaluator,
    Number,
    Probe,
    RowMetric,
    ScoredRow,
    SummaryMetric,
    Table,
)
from unlearn_cli.api.method import Method, MethodDefaults

__all__ = [
    "AnswerScore",
    "Bundle",
    "DataContext",
    "Dataset",
    "Evaluator",
    "Location",
    "Message",
    "Method",
    "MethodDefaults",
    "Number",
    "Probe",
    "Row",
    "RowMetric",
    "ScoredRow",
    "SummaryMetric",
    "Table",
]
