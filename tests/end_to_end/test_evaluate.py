"""Evaluators beside the first, stress tests, requirements, and results of others as reference."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Workplace, events, weights

pytestmark = pytest.mark.slow
STRESS = """
[[evaluate]]
evaluator = "relearn"
steps = 3
learning_rate = 1e-3

[[evaluate]]
evaluator = "quantize"

[[evaluate]]
evaluator = "jailbreak"

[[evaluate]]
evaluator = "paraphrase"
"""


def add(place: Workplace, text: str) -> None:
    """Add tables to the spec."""
    spec = place.folder / "spec.toml"
    spec.write_text(spec.read_text("utf-8") + text, "utf-8")


def read(run: Path, place: str, evaluator: str) -> dict[str, object]:
    path = run / "evaluations" / place / f"{evaluator}.json"
    found: dict[str, object] = json.loads(path.read_text("utf-8"))
    return found


def test_stress_tests_leave_the_model_as_it_is(place: Workplace, here: Here) -> None:
    """The model that is kept is the one without them; they are run on it and on the retain
    reference, and not on the target; the JSON holds all."""
    assert here("run", "spec.toml", "--name", "plain").code == 0
    add(place, STRESS)
    outcome = here("run", "spec.toml", "--name", "stressed", "--json")
    assert outcome.code == 0
    plain, stressed = (place.run_folder(name) for name in ("plain", "stressed"))
    assert weights(stressed / "model") == weights(plain / "model")
    names = {"tofu", "relearn", "quantize", "jailbreak", "paraphrase"}
    stored: dict[str, set[str]] = defaultdict(set)
    for path in stressed.glob("evaluations/*/*.json"):
        stored[path.parent.name].add(path.stem)
    assert stored == {"step-0": {"tofu"}, "step-4": names, "retain_reference": names}
    found = json.loads(outcome.out)["evaluations"]
    assert next(iter(found)) == "tofu"
    assert set(found["relearn"]) == {"unlearned", "retain_reference"}
    tofu, relearned = (found[k]["unlearned"]["forget.probability"] for k in ("tofu", "relearn"))
    assert relearned["value"] != tofu["value"]


def test_a_missed_requirement_is_exit_code_3(place: Workplace, here: Here) -> None:
    """The run is finished, everything is written, and what is missed is said; so it is when the run
    is asked for again."""
    add(place, '\n[require]\nforget_quality = "> 1"\nmodel_utility = ">= 0"\n')
    outcome = here("run", "spec.toml")
    assert outcome.code == 3
    assert "Missed: forget_quality is" in outcome.out
    assert "Missed: model_utility" not in outcome.out
    (finished,) = events(place.run_folder("tiny"), "RunFinished")
    assert len(finished["missed"]) == 1
    assert here("run", "spec.toml", "--resume").code == 3


@pytest.mark.parametrize("condition", ['"about 1"', "0.5"])
def test_a_condition_of_another_form_is_refused(
    place: Workplace, here: Here, condition: str
) -> None:
    """Before anything runs, with its line and what would work."""
    add(place, f"\n[require]\nforget_quality = {condition}\n")
    outcome = here("check", "spec.toml")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert '[require].forget_quality: must be a condition in quotes; e.g. ">= 0.05"' in line


def test_a_run_folder_is_a_retain_reference(place: Workplace, here: Here) -> None:
    """Its stored evaluations of the retain reference give the same forget quality."""
    assert here("run", "spec.toml", "--name", "one").code == 0
    one = place.run_folder("one")
    again = ("--set", f"retain_reference.evaluation={one}", "--set", f"model.path={one / 'model'}")
    outcome = here("evaluate", "spec.toml", *again, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["tofu"]["forget_quality"]["value"]
    numbers = read(one, "step-4", "tofu")["table"]["numbers"]  # type: ignore[index]
    assert found == numbers["forget_quality"]["value"]


def test_a_run_keeps_the_stored_reference_that_it_was_judged_by(
    place: Workplace, here: Here
) -> None:
    """Its folder then tells the whole verdict: as a copy, without the file that was named, it shows
    the same figures of the reference, and evidence of it is verified."""
    assert here("run", "spec.toml", "--name", "one").code == 0
    one = place.run_folder("one")
    stored = place.folder / "stored.json"
    shutil.copy(one / "evaluations" / "step-4" / "tofu.json", stored)  # any model may be one
    named = ("--set", f"retain_reference.evaluation={stored}")
    assert here("run", "spec.toml", "--name", "two", *named).code == 0
    stored.unlink()
    two = place.run_folder("two")
    kept = read(two, "retain_reference", "tofu")
    assert kept["table"] == read(one, "step-4", "tofu")["table"]
    assert kept["label"] == "retain_reference"
    assert here("certify", str(two)).code == 0
    outcome = here("verify", str(two / "evidence.json"))
    assert outcome.code == 0, outcome.out


def test_any_model_of_a_run_is_measured(place: Workplace, here: Here) -> None:
    """The folder of a run means the model that it made; a checkpoint is a model like any other, and
    the last one has the same weights: the same figures."""
    assert here("run", "spec.toml", "--set", "checkpoints.every=4").code == 0
    run = place.run_folder("tiny")
    found = []
    for model in (run, run / "model", run / "checkpoints" / "step-4"):
        outcome = here("evaluate", "spec.toml", "--model", str(model), "--json")
        assert outcome.code == 0, outcome.err
        found.append(json.loads(outcome.out))
    assert found[0] == found[1] == found[2]


def test_a_reference_with_other_tokens_is_refused(place: Workplace, here: Here) -> None:
    """Its figures would be of other sequences; the mismatch is named, with what would do."""
    assert here("run", "spec.toml").code == 0
    run = place.run_folder("tiny")
    stored = ("--set", f"retain_reference.evaluation={run}", "--set", f"model.path={run / 'model'}")
    outcome = here("evaluate", "spec.toml", *stored, "--set", "data.max_length=100")
    assert outcome.code == 1
    (line,) = outcome.errors
    assert "evaluated with other tokens (tokenizer, template or max_length)" in line


def test_a_metric_that_is_not_there_is_named_before_anything_is_made(
    place: Workplace, here: Here
) -> None:
    """Exit code 2, the name that was meant, and no model was trained."""
    add(place, '\n[[evaluate]]\nevaluator = "qa"\nrow_metrics = ["probabilty"]\n')
    outcome = here("run", "spec.toml")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "did you mean 'probability'?" in line
    assert not events(place.run_folder("tiny"), "StageStarted")


@pytest.mark.parametrize(("samples", "different"), [(3, 2), (0, 1)])
def test_drawn_answers_of_another_seed_are_drawn_again(
    place: Workplace, here: Here, samples: int, different: int
) -> None:
    """The cache knows the seed of what is drawn; where nothing is drawn it is of no account."""
    assert here("run", "spec.toml").code == 0
    row = json.dumps({"question": "Who?", "answer": "Ann"}) + "\n"
    (place.folder / "own.jsonl").write_text(row, "utf-8")
    (place.folder / "own.toml").write_text(
        f"""
name = "own"
model.path = "{place.run_folder("tiny") / "model"}"
data.forget = "own.jsonl"
method.name = "grad_ascent"
[[evaluate]]
evaluator = "qa"
row_metrics = ["rouge", "leakage_bound"]
samples = {samples}
max_new_tokens = 4
""",
        "utf-8",
    )
    before = set(place.cache.glob("evaluations/[!.]*"))
    for seed in ("1", "1", "2"):
        outcome = here("evaluate", "own.toml", "--set", f"seed={seed}", "--json")
        assert outcome.code == 0, outcome.err
    assert len(set(place.cache.glob("evaluations/[!.]*")) - before) == different
