"""What bad input gets: one clear line, the right exit code, nothing written over."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Here, Outcome, Workplace, steps

pytestmark = pytest.mark.slow
Finished = tuple[Workplace, Outcome, Path]
QA = '{"question": "Who baked it?", "answer": "Mara did."}\n'


def refused(outcome: Outcome, code: int, *parts: str) -> None:
    """One line that holds all `parts`, no traceback, this exit code, nothing on stdout."""
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    (line,) = outcome.errors
    for part in parts:
        assert part in line
    assert outcome.out == ""


def flags(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_a_folder_that_holds_a_run_is_left_alone(finished: Finished, here: Here) -> None:
    """Not even the time of a file changes."""
    run = finished[2]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    outcome = here("run", str(run / "spec.toml"))
    refused(outcome, 2, "already holds a run", "--resume")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_resume_needs_a_run(here: Here, place: Workplace) -> None:
    """`--resume` where no run is says so, and makes no folder."""
    refused(here("run", "spec.toml", "--resume"), 2, "holds no run", "runs/tiny")
    assert not place.run_folder("tiny").exists()


def test_resume_refuses_another_spec(finished: Finished, here: Here) -> None:
    """A run is not continued with another learning rate; the key is named."""
    spec = str(finished[2] / "spec.toml")
    outcome = here("run", spec, "--resume", *flags("train.learning_rate=0.5"))
    refused(outcome, 2, "train.learning_rate")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("method.name=simnop", "simnpo"),
        ("data.dataset=peoples", "people"),
        ("evaluate=[{evaluator='tofuu'}]", "tofu"),
        ("method.beta=0", "beta"),
        ("train.stepps=2", "steps"),
    ],
)
def test_a_wrong_name_or_value_gets_a_suggestion(here: Here, setting: str, named: str) -> None:
    """Before anything loads: exit code 2, and the name or range that is meant."""
    refused(here("run", "spec.toml", *flags(setting)), 2, named)


def test_an_unknown_preset_gets_a_suggestion(here: Here) -> None:
    """The preset that is meant is named."""
    refused(here("run", "quickstrat"), 2, "quickstart")


def test_an_unknown_metric_for_the_best_checkpoint_is_named(here: Here) -> None:
    """Before anything loads, with the metric that is meant."""
    outcome = here("run", "spec.toml", *flags("checkpoints.best=utilitty"))
    refused(outcome, 2, "utilitty", "model_utility")


def test_a_folder_that_is_no_model_is_named(here: Here) -> None:
    """A folder without config.json."""
    Path("empty").mkdir()
    refused(here("evaluate", "spec.toml", "--model", "./empty"), 1, "is no model", "config.json")


def test_a_truncated_model_is_named(finished: Finished, here: Here) -> None:
    """The second half of the weights is missing."""
    shutil.copytree(finished[2] / "model", "half")
    file = Path("half/model.safetensors")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(here("evaluate", "spec.toml", "--model", "./half"), 1, "half", "cannot be loaded")


def test_a_model_without_tokenizer_says_what_to_set(finished: Finished, here: Here) -> None:
    """Weights and config alone."""
    bare = Path("bare")
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(finished[2] / "model" / name, bare)
    refused(here("evaluate", "spec.toml", "--model", "./bare"), 1, "tokenizer", "model.tokenizer")


def test_a_hub_id_without_network_is_named(here: Here) -> None:
    """Offline, and not in the cache."""
    refused(here("evaluate", "spec.toml", "--model", "nobody/nothing"), 1, "nobody/nothing", "hub")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"question": "Who?", "reply": "Mara."}\n', ("forget.jsonl:1", "'answer' is missing")),
        (QA + '{"question": "Who?", "answer": " "}\n', ("forget.jsonl:2", "is empty")),
        ("", ("forget.jsonl", "has no rows")),
        (QA + '{"question": "Who?", "answer": 7}\n', ("forget.jsonl:2", "not a string")),
        (QA + QA.replace("?", "") + '{"question": \n', ("forget.jsonl:3", "broken JSON")),
    ],
    ids=["missing-column", "empty-answer", "zero-rows", "mixed-types", "broken-json"],
)
def test_bad_rows_are_named_by_file_and_line(
    finished: Finished, here: Here, text: str, parts: tuple[str, ...]
) -> None:
    """File, line and column, before any model loads."""
    refused(own_data(finished, here, text), 1, *parts)


def test_a_run_that_failed_at_once_does_not_keep_its_name(finished: Finished, here: Here) -> None:
    """Bad rows, then mended ones: the same command works, as there was nothing to lose."""
    assert own_data(finished, here, "").code == 1
    assert own_data(finished, here, QA).code == 0
    assert "already holds a run" in own_data(finished, here, QA).err


def own_data(finished: Finished, here: Here, text: str, *settings: str) -> Outcome:
    """A run of two steps on `text` as the forget rows."""
    Path("forget.jsonl").write_text(text, encoding="utf-8")
    head = 'name = "own"\n[data]\nforget = "forget.jsonl"\n[method]\nname = "grad_ascent"\n'
    Path("own.toml").write_text(head + "[train]\nsteps = 2\n", encoding="utf-8")
    model = f"model.path={finished[2] / 'model'}"
    return here("run", "own.toml", *flags(model, "method.retain=none", *settings))


def test_forget_rows_that_are_also_retained_are_refused_where_asked(
    finished: Finished, here: Here
) -> None:
    """`overlap = "error"` stops the run and names the row; `"warn"` names it and goes on."""
    Path("retain.jsonl").write_text(QA, encoding="utf-8")
    shared = "1 row (0) of forget also in retain"
    strict = own_data(finished, here, QA, "data.retain=retain.jsonl", "data.overlap=error")
    refused(strict, 1, shared)
    lenient = own_data(finished, here, QA, "data.retain=retain.jsonl", "name=lenient")
    assert lenient.code == 0, lenient.err
    assert shared in lenient.err


def test_a_retain_term_needs_retain_rows(finished: Finished, here: Here) -> None:
    """retain = "nll" without rows to keep."""
    refused(own_data(finished, here, QA, "method.retain=nll"), 1, "retain", "data.retain")


def test_dpo_needs_the_alternates_that_it_is_told_to_use(finished: Finished, here: Here) -> None:
    """alternates = "column" where the rows have none."""
    settings = ("method.name=dpo", "data.alternates=column")
    refused(own_data(finished, here, QA, *settings), 1, "without alternate answers", "refusals")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(here: Here) -> None:
    """A learning rate of 1e30 overflows in a step or two; no model is written."""
    huge = flags("train.learning_rate=1e30", "train.max_grad_norm=0", "evaluate=[]")
    outcome = here("run", "spec.toml", *huge)
    refused(outcome, 1, "learning_rate")
    step = re.search(r"is (nan|inf|-inf) at step (\d)", outcome.errors[0])
    assert step
    assert int(step[2]) == steps(Path("runs/tiny"))[-1] + 1
    assert not Path("runs/tiny/model").exists()


def test_parameters_that_did_not_move_stop_the_run(here: Here) -> None:
    """bfloat16 has 8 bits of mantissa: an update of 1e-12 of weights near 0.01 rounds to none."""
    still = flags("model.dtype=bfloat16", "train.learning_rate=1e-12", "evaluate=[]")
    outcome = here("run", "spec.toml", *still)
    refused(outcome, 1, "no parameter moved in 4 steps", "float32")
    assert not Path("runs/tiny/model").exists()
