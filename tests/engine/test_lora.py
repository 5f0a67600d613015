"""Adapters: put in without a change, the reference with them off, folded in, written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("peft", reason="the extra lora is not installed")

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM

from unlearn_cli.engine.evaluate import restored
from unlearn_cli.engine.lora import (
    adapt,
    adapter_config,
    check_installed,
    find_adapted,
    folded,
    merge,
    own_parameters,
)
from unlearn_cli.engine.models import (
    fingerprint,
    load_model,
    load_skeleton,
    read_weights,
    save_model,
    write_weights,
)
from unlearn_cli.errors import ModelError, UsageError
from unlearn_cli.spec.tables import LoraTable, ModelTable
from unlearn_cli.testing import tiny_model

CPU = torch.device("cpu")
IDS = torch.arange(3, 13)[None]
KINDS = [LoraTable(rank=4), LoraTable(rank=4, rslora=True), LoraTable(rank=4, dora=True)]
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def all_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def adapted(table: LoraTable, base: str = "base", *, moved: bool = True) -> Any:
    """The tiny model with an adapter, trained for a step on a made-up loss."""
    model = tiny_model()
    adapt(model, find_adapted(model, all_names(model), table), table, base=base, seed=0)
    if moved:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.05)
        for _ in range(2):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The tiny model in a folder, with a tokenizer."""
    from unlearn_cli.engine.builtin import make_tiny

    save_model(tiny_model(), make_tiny(["some text"], 0)[1], tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("table", KINDS)
def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(table: LoraTable) -> None:
    """The second matrix is 0, so the logits have the bits of the model without it (DoRA divides by
    the norms that it starts from: float tolerance)."""
    model = adapted(table, moved=False)
    exact = 0 if not table.dora else 1e-6
    torch.testing.assert_close(logits(model), logits(tiny_model()), rtol=0, atol=exact)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".lora_" in name for name in trained)
    assert len(trained) == (2 + table.dora) * len(EVERY) * 2  # two blocks
    assert len(own_parameters(model)) == len(all_names(tiny_model()))


@pytest.mark.parametrize("table", KINDS)
def test_the_adapter_of_a_half_precision_model_is_float32(table: LoraTable) -> None:
    """In bfloat16 an update below 0.4 % of a weight would be lost. The model itself stays as it is,
    and says what it said (with DoRA to the last bits of bfloat16)."""
    model = tiny_model().bfloat16()
    before = logits(model)
    adapt(model, find_adapted(model, all_names(model), table), table, base="base", seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in own_parameters(model)} == {torch.bfloat16}
    after = logits(model)
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after, before, rtol=0, atol=0.01 if table.dora else 0)


def test_with_the_adapter_off_a_trained_model_is_the_reference() -> None:
    """peft's own switch gives the bits of the model before its first update."""
    model = adapted(LoraTable(rank=4))
    assert not torch.allclose(logits(model), logits(tiny_model()), atol=1e-3)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert torch.equal(logits(model), logits(tiny_model()))


def test_layers_are_those_that_the_method_trains_and_the_spec_names() -> None:
    """By the last part of the name or in full; the output layer only where it is named; no layer
    left is an error that lists what there is."""
    model = tiny_model()
    names = all_names(model)

    def found(*targets: str, trained: list[str] = names) -> list[str]:
        return find_adapted(model, trained, LoraTable(rank=1, targets=targets or None))

    assert {name.rpartition(".")[2] for name in found()} == set(EVERY)
    assert found("lm_head") == ["lm_head"]
    assert found("?_proj", trained=[n for n in names if ".1." in n]) == [
        f"model.layers.1.self_attn.{k}_proj" for k in "qkvo"
    ]
    assert found("model.layers.0.mlp.*") == [
        f"model.layers.0.mlp.{k}_proj" for k in ("gate", "up", "down")
    ]
    with pytest.raises(UsageError, match=r"down_proj, gate_proj.*v_proj"):
        found("query")


@pytest.mark.parametrize("table", KINDS)
def test_merged_weights_say_what_the_adapter_says(table: LoraTable) -> None:
    """A plain model with the names of the base, within rounding; its adapter is gone."""
    model = adapted(table)
    before = logits(model)
    merge(model)
    assert all_names(model) == all_names(tiny_model())
    assert adapter_config(model) is None
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)


def test_a_stress_test_sees_folded_weights_and_leaves_no_trace() -> None:
    """Inside, the model's own weights decide alone; afterwards every bit is as before."""
    model = adapted(LoraTable(rank=4))
    before, bits = logits(model), fingerprint(model)
    with restored(model), folded(model):
        torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
        with torch.no_grad():
            for parameter in own_parameters(model):
                parameter.zero_()
        assert not logits(model).any()
    assert fingerprint(model) == bits
    assert torch.equal(logits(model), before)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # in peft
@pytest.mark.parametrize("table", KINDS)
def test_a_saved_adapter_loads_everywhere(stored: Path, table: LoraTable) -> None:
    """As a model to evaluate it has the bits that it had; plain peft and plain transformers load it
    too; the folder holds no copy of the base."""
    model = adapted(table, base=str(stored))
    folder = stored.with_name("adapter")
    tokenizer = load_model(ModelTable(), str(stored), CPU).tokenizer
    save_model(model, tokenizer, folder)
    assert not (folder / "model.safetensors").exists()
    loaded = load_model(ModelTable(), str(folder), CPU)
    assert fingerprint(loaded.model) == fingerprint(model)
    assert torch.equal(logits(loaded.model), logits(model))
    base = AutoModelForCausalLM.from_pretrained(stored)
    assert torch.equal(logits(PeftModel.from_pretrained(base, folder)), logits(model))
    if not table.dora:  # transformers itself loses the norms of any DoRA adapter, peft does not
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model))
    assert all_names(load_skeleton(ModelTable(), str(folder))) == all_names(tiny_model())


def test_a_checkpoint_restores_an_adapter(tmp_path: Path) -> None:
    """What was written is read back into a fresh one, to the bit."""
    trained, fresh = adapted(LoraTable(rank=2)), adapted(LoraTable(rank=2), moved=False)
    write_weights(trained, tmp_path)
    read_weights(fresh, tmp_path)
    assert fingerprint(fresh) == fingerprint(trained)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("base_model_name_or_path", None, "does not name its base model"),
        ("base_model_name_or_path", "/nowhere/base", "/nowhere/base"),
        ("base_model_name_or_path", "builtin:tiny", "lora.merge = true"),
        ("peft_type", "NEWER", "the adapter cannot be loaded"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_says_why(
    stored: Path, key: str, value: str | None, says: str
) -> None:
    """One error that names the folder or the base."""
    folder = stored.with_name("adapter")
    tokenizer = load_model(ModelTable(), str(stored), CPU).tokenizer
    save_model(adapted(LoraTable(rank=1), base=str(stored)), tokenizer, folder)
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(config | {key: value}), "utf-8")
    with pytest.raises(ModelError) as caught:
        load_model(ModelTable(), str(folder), CPU)
    assert says in caught.value.line()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without peft: what to install."""
    monkeypatch.setattr("unlearn_cli.engine.lora.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"unlearn-cli\[lora\]"):
        check_installed("[lora]")
