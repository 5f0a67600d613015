"""The stages of a run in words: for its log, and for what is said of it before."""

from __future__ import annotations

TARGET = "Fine-tune the target on forget + retain"
RETAIN_REFERENCE = "Fine-tune the retain reference on retain"
REINFORCED = "Fine-tune the target once more on forget"
ALTERNATES = "Ask the model for alternate answers"
REFERENCE = "Score the model before its first update"
REINFORCED_REFERENCE = "Score the reinforced model"
SALIENCY = "Find the parameters to train"


def train(method: str) -> str:
    """Of unlearning."""
    return f"Unlearn with {method}"


def evaluate(label: str, evaluator: str = "") -> str:
    """Of an evaluation; `label` is what the model is to the run, and the evaluator is named where
    there are several."""
    return f"Evaluate the {_spaced(label)}{evaluator and f': {evaluator}'}"


def stress(label: str, evaluator: str) -> str:
    """Of a stress test that changes the model."""
    return f"Stress the {_spaced(label)}: {evaluator}"


def _spaced(label: str) -> str:
    return "model again" if label == "again" else label.replace("_", " ")
