"""What methods ask of a run beside a loss: patterns, alternates, edits, and what goes around."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.conftest import Here, Workplace, events, steps, weights

pytestmark = pytest.mark.slow
RMU = (
    "--set",
    "method.name=rmu",
    "--set",
    "method.layer=*.layers.1",
    "--set",
    'method.parameters=["*.layers.[01].mlp.down_proj.weight"]',
)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def target(place: Workplace) -> dict[str, torch.Tensor]:
    """Of the two models in the cache, the one that a run of four steps started from."""
    after = tensors(place.run_folder("tiny") / "model")
    found = [tensors(p.parent) for p in place.cache.glob("models/*/model.safetensors")]
    return min(found, key=lambda m: sum((m[k] - after[k]).abs().sum().item() for k in after))


def test_rmu_changes_what_it_names_and_nothing_else(place: Workplace, here: Here) -> None:
    """Two tensors of the three blocks move; all others have the bits of the target."""
    assert here("run", "spec.toml", *RMU, "--set", "method.alpha=1").code == 0
    before, after = target(place), tensors(place.run_folder("tiny") / "model")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"model.layers.{k}.mlp.down_proj.weight" for k in (0, 1)}


def test_patterns_are_checked_before_anything_is_made(place: Workplace, here: Here) -> None:
    """The default layer of rmu, the eighth, is not there: exit code 2, with what is, and neither a
    model is trained nor evaluated."""
    outcome = here("run", "spec.toml", "--set", "method.name=rmu")
    assert outcome.code == 2
    assert outcome.errors == [
        "error: [method]: the pattern '*.layers.7' means none; name one block of model.layers.0 to "
        "model.layers.2"
    ]
    assert not events(place.run_folder("tiny"), "StageStarted")


@pytest.mark.parametrize(
    ("method", "retain", "says"),
    [("simnpo", "hidden", "none or nll or kl"), ("pdu", "none", "nll or kl")],
)
def test_a_retain_term_that_makes_no_sense_is_refused(
    here: Here, method: str, retain: str, says: str
) -> None:
    """By name, with those that do."""
    pair = ("--set", f"method.name={method}", "--set", f"method.retain={retain}")
    outcome = here("run", "spec.toml", *pair)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert f"retain = {retain!r} makes no sense with method {method!r}; use {says}" in line


def test_alternates_of_the_model_are_made_once(place: Workplace, here: Here) -> None:
    """Two runs, one generation: the second takes it from the cache. None says what the true answer
    says, and each question has different ones."""
    made = ("--set", "data.alternates=model", "--set", "alternates.max_new_tokens=8")
    run = ("run", "spec.toml", "--set", "method.name=alt_po", *made)
    assert here(*run, "--name", "one").code == 0
    assert here(*run, "--name", "two").code == 0
    finished = [events(place.run_folder(name), "StageFinished") for name in ("one", "two")]
    stages = [[e["cached"] for e in log if e["stage"] == "alternates"] for log in finished]
    assert stages == [[False], [True]]
    made_once = place.cache.glob("alternates/*/alternates.json")
    choices = [json.loads(path.read_text("utf-8")) for path in made_once]
    assert choices
    assert all(len(set(answers)) == len(answers) > 0 for rows in choices for answers in rows)
    assert weights(place.run_folder("one") / "model") == weights(place.run_folder("two") / "model")


def test_a_resumed_run_keeps_its_alternates(place: Workplace, here: Here) -> None:
    """Their reference is stored with the run, so they are not asked for again when the cache has
    lost them."""
    made = ("--set", "data.alternates=model", "--set", "alternates.max_new_tokens=8")
    run = ("run", "spec.toml", "--set", "method.name=alt_po", *made)
    assert here(*run).code == 0
    folder = place.run_folder("tiny")
    before = weights(folder / "model")
    shutil.rmtree(place.cache / "alternates")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    interrupted = json.dumps(manifest | {"status": "interrupted"})
    (folder / "manifest.json").write_text(interrupted, "utf-8")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    assert here(*run, "--resume").code == 0
    assert not list(place.cache.glob("alternates/*/alternates.json"))
    assert weights(folder / "model") == before


def test_alt_po_refuses_refusals(here: Here) -> None:
    """The default alternates would make it dpo; the option to set is named."""
    outcome = here("run", "spec.toml", "--set", "method.name=alt_po")
    assert outcome.code == 2
    assert 'set data.alternates = "model"' in outcome.errors[0]


def test_a_task_vector_is_the_negated_fine_tuning(place: Workplace, here: Here) -> None:
    """The model is before - 2 (after - before), with `after` as the last checkpoint holds it."""
    scale = ("--set", "method.name=task_vector", "--set", "method.scale=2.0")
    assert here("run", "spec.toml", *scale, "--set", "checkpoints.every=4").code == 0
    run = place.run_folder("tiny")
    tuned, made, before = tensors(run / "checkpoints/step-4"), tensors(run / "model"), target(place)
    for name, start in before.items():
        expected = start - 2 * (tuned[name] - start)
        torch.testing.assert_close(made[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrap", ["sam_rho=0.05", "noise_sigma=0.01", "saliency=0.2", "entropy_retain=-0.25"]
)
def test_what_goes_around_a_method_survives_an_interrupt(
    place: Workplace, here: Here, wrap: str
) -> None:
    """Two steps and two more end with the bits of four at once, which are not those of the plain
    run."""
    every = ("--set", f"wrap.{wrap}", "--set", "checkpoints.every=2", "--set", "checkpoints.keep=2")
    assert here("run", "spec.toml", *every).code == 0
    run = place.run_folder("tiny")
    whole = weights(run / "model")
    for name in ("model", "checkpoints/step-4"):
        for path in sorted((run / name).iterdir()):
            path.unlink()
        (run / name).rmdir()
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}), "utf-8")
    assert here("run", str(run / "spec.toml"), "--resume").code == 0
    assert steps(run) == [1, 2, 3, 4]
    assert weights(run / "model") == whole
    assert here("run", "spec.toml", "--name", "plain").code == 0
    assert weights(place.run_folder("plain") / "model") != whole


def test_the_entropy_is_that_of_answers_wherever_the_divergence_is_taken(
    place: Workplace, here: Here
) -> None:
    """Where prompts count in the retain term, they still do not in the entropy of answers: before
    the first update it is the same, to rounding."""
    wrap = ("--set", "method.retain=kl", "--set", "wrap.entropy_retain=-0.25")
    found = []
    for positions in ("answer", "all"):
        flags = ("--set", f"method.kl_positions={positions}", "--name", positions)
        assert here("run", "spec.toml", *wrap, *flags).code == 0
        steps_ = events(place.run_folder(positions), "StepDone")
        losses = [entry["losses"] for entry in steps_ if entry["stage"] == "train"]
        found.append([loss["retain_entropy"] for loss in losses])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1:] != found[1][1:]  # the terms differ, and so do the updates


def test_the_gradient_is_taken_in_one_place(place: Workplace, here: Here) -> None:
    """Both kinds of smoothing at once are refused, with the line."""
    both = "\n[wrap]\nsam_rho = 0.1\nnoise_sigma = 0.1\n"
    place.spec.write_text(place.spec.read_text("utf-8") + both, encoding="utf-8")
    outcome = here("check", "spec.toml")
    assert outcome.code == 2
    assert "noise_sigma: given together with sam_rho" in outcome.errors[0]


def test_whp_reinforces_the_target_once(place: Workplace, here: Here) -> None:
    """The reinforced model is made of the target, cached by content, and used: with an empty
    reinforcement (hardly a learning rate) the run ends with other weights."""
    run = ("run", "spec.toml", "--set", "method.name=whp", "--set", "reinforce.learning_rate")
    for name, rate in (("one", 1e-3), ("two", 1e-3), ("idle", 1e-12)):
        assert here(*run[:-1], f"{run[-1]}={rate}", "--name", name).code == 0
    finished = [events(place.run_folder(name), "StageFinished") for name in ("one", "two")]
    cached = [[e["cached"] for e in log if e["stage"] == "reinforced"] for log in finished]
    assert cached == [[False], [True]]
    one, two, idle = (weights(place.run_folder(name) / "model") for name in ("one", "two", "idle"))
    assert one == two != idle
