"""For tests, ours and those of plugin authors: a suite for each kind of plugin, a tiny model,
made-up rows, and event capture.

Every suite raises AssertionError with the claim that does not hold; its claims are numbered in its
docstring. All run in seconds on a CPU, and need no network.
"""

from unlearn_cli.testing.dataset import check_dataset
from unlearn_cli.testing.evaluator import check_evaluator
from unlearn_cli.testing.made_up import (
    VOCABULARY,
    Recorder,
    made_up_bundle,
    made_up_rows,
    tiny_model,
)
from unlearn_cli.testing.method import check_method
from unlearn_cli.testing.metric import check_metric, check_summary, made_up_scores

__all__ = [
    "VOCABULARY",
    "Recorder",
    "check_dataset",
    "check_evaluator",
    "check_method",
    "check_metric",
    "check_summary",
    "made_up_bundle",
    "made_up_rows",
    "made_up_scores",
    "tiny_model",
]
