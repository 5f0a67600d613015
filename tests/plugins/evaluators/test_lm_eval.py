"""The evaluation harness on a task of our own, against a plain loop over the model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from unlearn_plugins.evaluators.lm_eval import LMEval
from unlearn_plugins.evaluators.wmdp import WMDP

from unlearn_cli.api import Bundle, Harness, Subject
from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.errors import DataError, PluginError

QUESTIONS = [("Who?", 0), ("Where was it?", 1), ("When?", 1), ("Why on earth?", 0)]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: ["A", "B"]
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def evaluator(folder: Path, *tasks: str, **options: Any) -> LMEval:
    """The harness with two tasks of the same questions in `folder`."""
    data = folder / "questions.jsonl"
    rows = [json.dumps({"question": q, "answer": a}) for q, a in QUESTIONS]
    data.write_text("\n".join(rows), encoding="utf-8")
    for name in ("letters", "wmdp_letters"):
        text = TASK.format(name=name, data=data)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return LMEval(tasks, include_path=str(folder), trust_remote_code=True, **options)


@pytest.fixture(scope="module")
def subject() -> Subject:
    model, tokenizer = make_tiny([q for q, _ in QUESTIONS] + ["Question: Answer: A B"], seed=0)
    return Subject(model, tokenizer, Bundle(()), 0, lambda rows, recipe: None, 2)


def right(subject: Subject, question: str, answer: int) -> bool:
    """Whether the model finds the right letter likelier, by a plain forward pass."""
    scores = []
    for letter in "AB":
        prompt = subject.tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
        whole = subject.tokenizer(f"Question: {question}\nAnswer: {letter}")["input_ids"]
        with torch.no_grad():
            logp = subject.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(prompt), len(whole))
        scores.append(sum(float(logp[t - 1, whole[t]]) for t in places))
    return scores[answer] > scores[1 - answer]


needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason="the extra `lm-eval` is not installed",
)


def test_they_are_harnesses() -> None:
    """They measure the model themselves; WMDP is the harness with tasks of its own."""
    assert isinstance(LMEval(("mmlu",)), Harness)
    assert isinstance(WMDP(), Harness)
    assert WMDP().tasks[0] == "wmdp_bio"


@needs_harness
def test_accuracy_equals_a_plain_loop(tmp_path: Path, subject: Subject) -> None:
    """Every question's value and their mean; what is to be forgotten should fall, the other not."""
    subject.model.train()
    table = evaluator(tmp_path, "letters", "wmdp_letters").measure(subject)
    assert subject.model.training
    subject.model.eval()
    expected = {str(k): float(right(subject, *row)) for k, row in enumerate(QUESTIONS)}
    for set_, direction in (("letters", "higher"), ("forget_wmdp_letters", "lower")):
        assert table.rows[set_]["acc"] == expected
        number = table.numbers[f"{set_}.acc"]
        assert number.value == pytest.approx(sum(expected.values()) / len(QUESTIONS))
        assert (number.direction, number.n) == (direction, len(QUESTIONS))


@needs_harness
def test_options_reach_the_harness(tmp_path: Path, subject: Subject) -> None:
    """A limit asks the first questions only."""
    number = evaluator(tmp_path, "letters", limit=2).measure(subject).numbers["letters.acc"]
    assert number.n == 2


@needs_harness
def test_nothing_is_printed(
    tmp_path: Path, subject: Subject, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its bars and logs would stand in the middle of ours."""
    evaluator(tmp_path, "letters").measure(subject)
    assert capfd.readouterr() == ("", "")


@needs_harness
def test_an_unknown_task_is_named(tmp_path: Path, subject: Subject) -> None:
    """With those that have a similar name."""
    with pytest.raises(DataError, match="no task 'leters'") as caught:
        evaluator(tmp_path, "leters").measure(subject)
    assert "letters" in str(caught.value.hint)


@needs_harness
def test_data_that_cannot_be_had_is_one_error(tmp_path: Path, subject: Subject) -> None:
    """A task whose file is missing."""
    found = evaluator(tmp_path, "letters")
    (tmp_path / "questions.jsonl").unlink()
    with pytest.raises(DataError, match="the tasks letters cannot be run"):
        found.measure(subject)


def test_tasks_of_others_need_trust(subject: Subject, tmp_path: Path) -> None:
    """Their YAML may name Python functions, which the harness would import."""
    with pytest.raises(DataError, match="tasks in YAML may run code") as caught:
        LMEval(("letters",), include_path=str(tmp_path)).measure(subject)
    assert caught.value.where == "include_path"


def test_without_the_harness_the_extra_is_named(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error, with what installs it."""
    monkeypatch.setattr("unlearn_plugins.evaluators.lm_eval.find_spec", lambda name: None)
    with pytest.raises(PluginError, match="lm-eval is not installed") as caught:
        LMEval(("mmlu",)).measure(subject)
    assert "unlearn-cli[lm-eval]" in str(caught.value.hint)
