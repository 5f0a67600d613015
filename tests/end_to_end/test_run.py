"""`unlearn run`, `unlearn run --dry-run` and `unlearn evaluate`, end to end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Outcome, Workplace, evaluation, events, steps, weights

pytestmark = pytest.mark.slow
Finished = tuple[Workplace, Outcome, Path]


def test_a_run_prints_its_table_and_says_where_everything_is(finished: Finished) -> None:
    """Exit code 0; before, after and retain reference on stdout; progress on stderr only."""
    _, outcome, run = finished
    assert outcome.code == 0, outcome.err
    assert re.search(r"metric +before +after +retain reference", outcome.out)
    assert re.search(r"forget\.probability +↓( +\d\.\d+){3}", outcome.out)
    assert "Verdict: " in outcome.out
    assert str(run / "model") in outcome.out
    assert "Unlearn with simnpo" in outcome.err
    assert "Unlearn with simnpo" not in outcome.out


def test_a_run_leaves_a_complete_folder(finished: Finished) -> None:
    """Spec, manifest, log, evaluations of the first and last step, report: all there."""
    run = finished[2]
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert manifest["status"] == "finished"
    assert steps(run) == [1, 2, 3, 4]
    assert [entry["event"] for entry in events(run)][-1] == "RunFinished"
    assert {path.name for path in (run / "evaluations").iterdir()} == {
        "step-0",
        "step-4",
        "retain_reference",
    }
    assert evaluation(run, "step-0")["model"] == manifest["model"]
    assert evaluation(run, "step-4")["model"] == manifest["unlearned"] != manifest["model"]
    assert "<html" in (run / "report.html").read_text("utf-8")


def test_the_model_loads_without_this_tool(finished: Finished) -> None:
    """Plain transformers reads model and tokenizer, and the model continues a prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished[2] / "model")
    model = AutoModelForCausalLM.from_pretrained(finished[2] / "model")
    prompt = tokenizer("Where was", return_tensors="pt")
    assert model(**prompt).logits.shape == (1, prompt.input_ids.shape[1], len(tokenizer))


def test_the_resolved_spec_runs_again_to_the_same_bits(finished: Finished, here: Here) -> None:
    """`spec.toml` of a run, under another name in another folder, gives identical weights."""
    run = finished[2]
    again = here("run", str(run / "spec.toml"), "--name", "again", "--set", "output.folder=other")
    assert again.code == 0, again.err
    assert weights(Path("other/again/model")) == weights(run / "model")


def test_evaluating_a_run_again_gives_its_own_numbers(finished: Finished, here: Here) -> None:
    """`unlearn evaluate RUN` scores the unlearned model: the same numbers as during the run."""
    run = finished[2]
    outcome = here("evaluate", str(run), "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["tofu"]
    stored = evaluation(run, "step-4")["table"]["numbers"]
    assert {k: n["value"] for k, n in found.items()} == {
        k: pytest.approx(n["value"], abs=1e-6) for k, n in stored.items()
    }


def test_evaluate_measures_the_model_that_is_named(finished: Finished, here: Here) -> None:
    """`--model DIR` decides: a folder of checkpoints' shape is measured, the table is printed, and
    `--output` keeps a value for every row."""
    outcome = here(
        "evaluate", "spec.toml", "--model", str(finished[2] / "model"), "--output", "measured"
    )
    assert outcome.code == 0, outcome.err
    assert "forget.probability" in outcome.out
    written = json.loads(Path("measured/tofu.json").read_text("utf-8"))
    assert written["model"] == evaluation(finished[2], "step-4")["model"]
    assert written["table"]["rows"]


def test_dry_run_says_what_would_happen_and_does_nothing(here: Here, place: Workplace) -> None:
    """2 people x 2 questions are 4 forget rows; 3 x 2 + 1 x 2 reworded + 40 facts are retain's 48.
    The tokens that carry loss are marked: the answer, and not the question."""
    outcome = here("run", "spec.toml", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert re.search(r"forget: 4 rows, \d+ tokens, \d+ of them carry loss", outcome.out)
    assert re.search(r"retain: 48 rows, \d+ tokens", outcome.out)
    assert "4 steps of 2 forget rows" in outcome.out
    as_json = json.loads(here("run", "spec.toml", "--dry-run", "--json").out)
    pieces = as_json["examples"]["forget"]
    assert "?" in pieces[0][0]
    assert not pieces[0][1]
    (answer,) = [text for text, labelled in pieces if labelled]
    assert answer.endswith(".<|end|>")
    assert not place.run_folder("tiny").exists()


@pytest.mark.parametrize("retain", ["none", "nll", "kl"])
@pytest.mark.parametrize("method", ["dpo", "grad_ascent", "grad_diff", "npo", "simnpo"])
def test_every_method_runs_with_every_retain_term(here: Here, method: str, retain: str) -> None:
    """Two steps of each: finite losses by name, and weights that moved."""
    options = (f"method.name={method}", f"method.retain={retain}", "train.steps=2", "evaluate=[]")
    outcome = here("run", "spec.toml", *[part for o in options for part in ("--set", o)])
    assert outcome.code == 0, outcome.err
    losses = [entry["losses"] for entry in events(Path("runs/tiny"), "StepDone")]
    assert [set(loss) for loss in losses[-2:]] == 2 * [
        {"total", "forget"} | ({"retain"} if retain != "none" else set())
    ]


def test_the_report_of_one_run_goes_where_it_is_told(
    finished: tuple[Workplace, Outcome, Path], tmp_path: Path
) -> None:
    """`unlearn report RUN --output FILE`: the bytes of the report in the run folder."""
    place, _, run = finished
    outcome = place.unlearn("report", str(run), "--output", str(tmp_path / "one.html"))
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "one.html").read_bytes() == (run / "report.html").read_bytes()
