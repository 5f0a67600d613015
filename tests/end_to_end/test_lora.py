"""Runs that train an adapter."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.conftest import Here, Outcome, Workplace, evaluation, events, finish, steps
from tests.end_to_end.test_processes import assert_same_rows

pytest.importorskip("peft", reason="the extra lora is not installed")

from peft import get_peft_model_state_dict

from unlearn_cli.engine.lora import adapt
from unlearn_cli.engine.models import load_model
from unlearn_cli.spec.tables import LoraTable, ModelTable

pytestmark = pytest.mark.slow
RANK, RATE = 2, 1e-2
LORA = (f"lora.rank={RANK}", f"train.learning_rate={RATE}")


def settings(*keys: str) -> list[str]:
    return [part for key in keys for part in ("--set", key)]


def adapter(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "model" / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): value for name, value in found.items()}


def as_drawn(run: Path) -> dict[str, torch.Tensor]:
    """The adapter of a run before its first update, drawn once more."""
    config = json.loads((run / "model" / "adapter_config.json").read_text("utf-8"))
    base = config["base_model_name_or_path"]
    model = load_model(ModelTable(), base, torch.device("cpu")).model
    layers = [name.removesuffix(".lora_A.weight") for name in adapter(run) if "lora_A" in name]
    adapt(model, layers, LoraTable(rank=RANK), base=base, seed=0)
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    return found


@pytest.mark.parametrize("method", ["npo", "dpo", "undial", "kl_min", "pdu", "rmu", "satimp"])
def test_every_adapter_matrix_moves_with_activation_checkpointing(
    place: Workplace, here: Here, method: str
) -> None:
    """No matrix is what the seed drew, in each of the layers that the method trains; the adapter is
    all that is saved."""
    keys = [*LORA, f"method.name={method}", "train.activation_checkpointing=true"]
    if method == "rmu":
        keys += ["method.layer=*.layers.1", 'method.parameters=["*.layers.[01].mlp.*"]']
    outcome = here("run", "spec.toml", *settings(*keys))
    assert outcome.code == 0, outcome.err
    run = place.run_folder("tiny")
    found, drawn = adapter(run), as_drawn(run)
    assert len(found) == 2 * (2 * 3 if method == "rmu" else 3 * 7)
    assert found.keys() == drawn.keys()
    assert not [name for name in found if torch.equal(found[name], drawn[name])]
    assert not (run / "model" / "model.safetensors").exists()


def test_the_saved_adapter_has_the_numbers_of_the_run(place: Workplace, here: Here) -> None:
    """`unlearn evaluate` on the folder of the adapter, nothing cached: every row's value again."""
    assert here("run", "spec.toml", *settings(*LORA)).code == 0
    run = place.run_folder("tiny")
    for entry in place.cache.glob("evaluations/[!.]*"):
        shutil.rmtree(entry)
    outcome = here("evaluate", "spec.toml", "--model", str(run / "model"), "--output", "again")
    assert outcome.code == 0, outcome.err
    (again,) = (place.folder / "again").rglob("tofu.json")
    assert_same_rows(json.loads(again.read_text("utf-8")), evaluation(run, "step-4"))


def test_merged_on_request(place: Workplace, here: Here) -> None:
    """A whole model that plain transformers loads, with the numbers of the adapter."""
    assert here("run", "spec.toml", *settings(*LORA), "--name", "adapter").code == 0
    assert here("run", "spec.toml", *settings(*LORA, "lora.merge=true")).code == 0
    merged = place.run_folder("tiny")
    assert not (merged / "model" / "adapter_config.json").exists()
    names = load_file(merged / "model" / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    found = evaluation(merged, "step-4")
    assert_same_rows(found, evaluation(place.run_folder("adapter"), "step-4"))


@pytest.mark.parametrize("method", ["task_vector", "simnpo"])
def test_what_needs_whole_weights_says_so(place: Workplace, here: Here, method: str) -> None:
    """A method that edits weights, and a model that is stored nowhere, need `lora.merge`; with it
    they run."""
    keys = [*LORA, f"method.name={method}"]
    if method == "simnpo":
        spec = place.spec.read_text("utf-8").replace('base = "builtin:tiny"', "")
        place.spec.write_text(spec + '\n[model]\npath = "builtin:tiny"\n', "utf-8")
    outcome = here("run", "spec.toml", *settings(*keys))
    assert outcome.code == 2
    assert outcome.errors[0].startswith("error: [lora].merge: ")
    outcome = here("run", "spec.toml", *settings(*keys, "lora.merge=true"), "--name", "merged")
    assert outcome.code == 0, outcome.err


def test_a_run_that_moves_no_adapter_fails(place: Workplace, here: Here) -> None:
    """An update below the precision of the weights: exit code 1, in one line."""
    keys = (*LORA, "train.learning_rate=1e-45", "train.weight_decay=0")
    outcome = here("run", "spec.toml", *settings(*keys))
    assert outcome.code == 1
    assert "no parameter moved" in outcome.errors[0]


def test_an_interrupted_run_with_dropout_ends_with_the_same_bits(
    place: Workplace, here: Here
) -> None:
    """What is dropped in a step does not depend on the steps that this process took before."""
    keys = settings(*LORA, "lora.dropout=0.3", "train.steps=12", "checkpoints.every=2")
    assert here("run", "spec.toml", *keys, "--name", "undisturbed").code == 0
    process = place.start("run", "spec.toml", *keys)
    run = place.run_folder("tiny")
    while process.poll() is None and (not steps(run) or steps(run)[-1] < 3):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    resumed = here("run", "spec.toml", *keys, "--resume")
    assert resumed.code == 0, resumed.err
    found, expected = adapter(run), adapter(place.run_folder("undisturbed"))
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    assert steps(run) == list(range(1, 13))


def test_stress_tests_take_an_adapter(place: Workplace, here: Here) -> None:
    """Relearning and rounding act on the whole weights and change what is measured; the adapter
    that is saved is that of a run without them."""
    tests = '\n[[evaluate]]\nevaluator = "relearn"\nlearning_rate = 1e-3\nsteps = 3\n'
    tests += '\n[[evaluate]]\nevaluator = "quantize"\n'
    assert here("run", "spec.toml", *settings(*LORA), "--name", "plain").code == 0
    place.spec.write_text(place.spec.read_text("utf-8") + tests, "utf-8")
    assert here("run", "spec.toml", *settings(*LORA)).code == 0
    run = place.run_folder("tiny")
    found, expected = adapter(run), adapter(place.run_folder("plain"))
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    values = []
    for name in ("tofu", "relearn", "quantize"):
        table = json.loads((run / f"evaluations/step-4/{name}.json").read_text("utf-8"))["table"]
        values.append(table["numbers"]["forget.probability"]["value"])
    assert len(set(values)) == 3


def test_an_adapter_can_be_unlearned_further(place: Workplace, here: Here) -> None:
    """As `model.path` it is merged first, with the numbers that it had; another adapter on top
    needs `lora.merge`, since it would load nowhere."""
    assert here("run", "spec.toml", *settings(*LORA), "--name", "first").code == 0
    first = place.run_folder("first") / "model"
    spec = place.spec.read_text("utf-8").replace('base = "builtin:tiny"', "")
    place.spec.write_text(f"{spec}\n[model]\npath = {json.dumps(str(first))}\n", "utf-8")
    outcome = here("run", "spec.toml", *settings("train.learning_rate=1e-3"), "--name", "whole")
    assert outcome.code == 0, outcome.err
    assert (place.run_folder("whole") / "model" / "model.safetensors").exists()
    outcome = here("run", "spec.toml", *settings(*LORA), "--name", "refused")
    assert outcome.code == 2
    assert "[lora].merge" in outcome.errors[0]
    before = evaluation(place.run_folder("first"), "step-4")
    assert_same_rows(evaluation(place.run_folder("whole"), "step-0"), before)


@pytest.mark.parametrize("table", ["model", "target"])
def test_an_adapter_is_a_model_to_edit_and_to_fine_tune(
    place: Workplace, here: Here, table: str
) -> None:
    """A task vector is taken from the merged weights; a target can be fine-tuned from them."""
    assert here("run", "spec.toml", *settings(*LORA), "--name", "first").code == 0
    first = json.dumps(str(place.run_folder("first") / "model"))
    spec = place.spec.read_text("utf-8")
    if table == "target":
        spec = spec.replace('base = "builtin:tiny"', f"base = {first}")
    else:
        spec = spec.replace('base = "builtin:tiny"', "") + f"\n[model]\npath = {first}\n"
    place.spec.write_text(spec, "utf-8")
    keys = ("method.name=task_vector", "train.learning_rate=1e-3")
    outcome = here("run", "spec.toml", *settings(*keys))
    assert outcome.code == 0, outcome.err
    names = load_file(place.run_folder("tiny") / "model" / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]


def test_two_processes_train_the_adapter_that_one_trains(
    finished: tuple[Workplace, Outcome, Path],
) -> None:
    """Adam may turn the rounding of a gradient near 0 into any step up to the rate, and hardly
    ever does; the logs and every row's value agree."""
    place = finished[0]
    for name, processes in (("lora-1", ()), ("lora-2", ("--processes", "2"))):
        outcome = place.unlearn("run", "spec.toml", *settings(*LORA), "--name", name, *processes)
        assert outcome.code == 0, outcome.err
    one, two = (place.run_folder(name) for name in ("lora-1", "lora-2"))
    assert events(two, "RunStarted")[0]["processes"] == 2
    expected, found = adapter(one), adapter(two)
    off = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])
    assert off.max() <= 2 * RATE * 4
    assert off.mean() <= RATE / 100
    assert steps(two) == steps(one)
    assert_same_rows(evaluation(two, "step-4"), evaluation(one, "step-4"))
