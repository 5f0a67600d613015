"""Runs that train an adapter on weights of 4 bits, or with another optimizer."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.conftest import Here, Workplace, evaluation, events, finish, steps
from tests.end_to_end.test_lora import adapter, settings
from tests.end_to_end.test_processes import assert_same_rows

pytest.importorskip("peft", reason="the extra lora is not installed")
pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")

from unlearn_cli.engine.models import fingerprint, load_model
from unlearn_cli.spec.tables import ModelTable

pytestmark = pytest.mark.slow
QLORA = ("lora.rank=2", "lora.base=nf4", "train.learning_rate=1e-2", "model.dtype=float32")


def base_of(run: Path) -> str:
    config = json.loads((run / "model" / "adapter_config.json").read_text("utf-8"))
    return str(config["base_model_name_or_path"])


def in_four_bits(path: str) -> Any:
    table, cpu = ModelTable(dtype="float32"), torch.device("cpu")
    return load_model(table, path, cpu, quantized=True).model


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text("utf-8"))
    return found


def forget_answers(place: Workplace) -> None:
    """Nothing that was measured or scored before is known; the models that were made are."""
    for kind in ("evaluations", "references"):
        shutil.rmtree(place.cache / kind, ignore_errors=True)


def test_an_adapter_on_four_bits_is_what_was_measured(place: Workplace, here: Here) -> None:
    """The run starts from the target in 4 bits and saves an adapter and no base; measured again it
    has the same numbers, row by row."""
    keys = settings(*QLORA, "method.name=npo", "method.retain=kl")
    outcome = here("run", "spec.toml", *keys)
    assert outcome.code == 0, outcome.err
    run = place.run_folder("tiny")
    assert manifest(run)["model"] == fingerprint(in_four_bits(base_of(run)))
    assert {path.name for path in (run / "model").glob("*.safetensors")} == {
        "adapter_model.safetensors"
    }
    assert len(adapter(run)) == 2 * 3 * 7
    assert fingerprint(in_four_bits(str(run / "model"))) == manifest(run)["unlearned"]
    forget_answers(place)
    again = here("evaluate", str(run), "--output", "again")
    assert again.code == 0, again.err
    (file,) = Path("again").rglob("tofu.json")
    assert_same_rows(json.loads(file.read_text("utf-8")), evaluation(run, "step-4"))


def test_the_reference_is_the_model_in_four_bits(place: Workplace, here: Here) -> None:
    """Before the first update the KL to the reference is 0, and NPO's term is 2 log 2 / beta; both
    are not in the last step."""
    keys = settings(*QLORA, "method.name=npo", "method.beta=0.5", "method.retain=kl")
    assert here("run", "spec.toml", *keys).code == 0
    taken = events(place.run_folder("tiny"), "StepDone")
    losses = [event["losses"] for event in taken if event["stage"] == "train"]
    assert losses[0]["retain"] == pytest.approx(0, abs=1e-6)
    assert losses[0]["forget"] == pytest.approx(2 / 0.5 * 0.6931472, rel=1e-5)
    assert losses[-1]["retain"] > 1e-4
    assert losses[-1]["forget"] < losses[0]["forget"]


def test_merged_and_stressed(place: Workplace, here: Here) -> None:
    """With `lora.merge` a whole model is measured and saved, which plain transformers loads. Stress
    tests run on an adapter, too, whose bits are those of a run without them."""
    keys = settings(*QLORA)
    assert here("run", "spec.toml", *keys, "--name", "plain").code == 0
    tests = '\n[[evaluate]]\nevaluator = "relearn"\nlearning_rate = 1e-3\nsteps = 3\n'
    tests += '\n[[evaluate]]\nevaluator = "quantize"\nbits = 8\n'
    place.spec.write_text(place.spec.read_text("utf-8") + tests, "utf-8")
    outcome = here("run", "spec.toml", *keys)
    assert outcome.code == 0, outcome.err
    run = place.run_folder("tiny")
    assert manifest(run)["unlearned"] == manifest(place.run_folder("plain"))["unlearned"]
    stressed = run / "evaluations" / "step-4" / "relearn.json"
    relearned = json.loads(stressed.read_text("utf-8"))["table"]["rows"]
    assert relearned != evaluation(run, "step-4")["table"]["rows"]
    merged = here("run", "spec.toml", *keys, *settings("lora.merge=true"), "--name", "merged")
    assert merged.code == 0, merged.err
    folder = place.run_folder("merged")
    names = load_file(folder / "model" / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "absmax" in name]
    assert "quantization_config" not in (folder / "model" / "config.json").read_text("utf-8")
    whole = load_model(ModelTable(), str(folder / "model"), torch.device("cpu")).model
    assert fingerprint(whole) == manifest(folder)["unlearned"]
    forget_answers(place)
    again = here("evaluate", str(folder), "--output", "again")
    assert again.code == 0, again.err
    (file,) = Path("again").rglob("tofu.json")
    assert_same_rows(json.loads(file.read_text("utf-8")), evaluation(folder, "step-4"))


@pytest.mark.parametrize(
    "keys",
    [QLORA, ("train.optimizer=adamw_8bit",), ("train.optimizer=adafactor",)],
    ids=["nf4", "adamw_8bit", "adafactor"],
)
def test_a_killed_run_ends_with_the_same_bits(
    place: Workplace, here: Here, keys: tuple[str, ...]
) -> None:
    """Killed after the third step and resumed: the model is that of an undisturbed run."""
    flags = settings(*keys, "train.steps=12", "checkpoints.every=2")
    assert here("run", "spec.toml", *flags, "--name", "undisturbed").code == 0
    process = place.start("run", "spec.toml", *flags)
    run = place.run_folder("tiny")
    while process.poll() is None and (not steps(run) or steps(run)[-1] < 3):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    resumed = here("run", "spec.toml", *flags, "--resume")
    assert resumed.code == 0, resumed.err
    assert steps(run) == list(range(1, 13))
    assert manifest(run)["unlearned"] == manifest(place.run_folder("undisturbed"))["unlearned"]


def test_memory_decides_the_micro_batch_in_four_bits_too(place: Workplace, here: Here) -> None:
    """`micro_batch = "auto"` and the forecast of a dry run, which knows how weights are held."""
    told = []
    for base in ("full", "nf4"):
        keys = settings("lora.rank=2", f"lora.base={base}")
        outcome = here("run", "spec.toml", *keys, "--dry-run", "--json")
        assert outcome.code == 0, outcome.err
        told.append(json.loads(outcome.out)["forecast"]["step"]["weights"])
    assert told[1] < 0.7 * told[0]
    outcome = here("run", "spec.toml", *settings(*QLORA, "train.micro_batch=auto"))
    assert outcome.code == 0, outcome.err


def test_what_cannot_be_held_in_four_bits_says_so(place: Workplace, here: Here) -> None:
    """A model made in code, and an adapter as target: one line that names the key."""
    assert here("run", "spec.toml", *settings(*QLORA), "--name", "adapter").code == 0
    spec = place.spec.read_text("utf-8").replace('base = "builtin:tiny"', "")
    for path, what in (
        ("builtin:tiny", "made in code"),
        (str(place.run_folder("adapter") / "model"), "the model is an adapter"),
    ):
        place.spec.write_text(f'{spec}\n[model]\npath = "{path}"\ndtype = "float32"\n', "utf-8")
        keys = settings("lora.rank=2", "lora.base=nf4", "lora.merge=true")
        outcome = here("run", "spec.toml", *keys, "--name", f"refused-{len(path)}")
        assert outcome.code == 2
        assert outcome.errors[0].startswith("error: [lora].base: ")
        assert what in outcome.errors[0]
