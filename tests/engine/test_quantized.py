"""Weights in 4 bits: what stays, what an adapter on them is, and where they become whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("peft", reason="the extra lora is not installed")
pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")

from accelerate import Accelerator
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM
from unlearn_plugins.evaluators.quantize import to_nf4

from unlearn_cli.engine import quantized
from unlearn_cli.engine.builtin import make_tiny
from unlearn_cli.engine.estimate import Estimate, estimate_step, imagine
from unlearn_cli.engine.evaluate import restored
from unlearn_cli.engine.forward import Scorer
from unlearn_cli.engine.gradient_norms import gradient_norms
from unlearn_cli.engine.lora import adapt, find_adapted, folded, merge, own_parameters
from unlearn_cli.engine.models import fingerprint, load_model, load_skeleton, save_model
from unlearn_cli.engine.objective import nll_term
from unlearn_cli.engine.plan import make_plan
from unlearn_cli.errors import ModelError, UsageError
from unlearn_cli.spec import tables
from unlearn_cli.spec.tables import LoraTable, ModelTable
from unlearn_cli.testing import made_up_rows, tiny_model

CPU = torch.device("cpu")
IDS = torch.arange(3, 13)[None]
KINDS = [
    LoraTable(rank=4, base="nf4"),
    LoraTable(rank=4, base="nf4", rslora=True),
    LoraTable(rank=4, base="nf4", dora=True),
    LoraTable(rank=4, base="nf4", targets=("q_proj", "down_proj", "lm_head")),
]


def wide_model() -> Any:
    """As the tiny model, but rows of weights end with a block of 64."""
    config = tiny_model().config
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in a folder, with a tokenizer."""
    folder = tmp_path_factory.mktemp("stored") / "base"
    save_model(wide_model(), make_tiny(["some text"], 0)[1], folder)
    return folder


def load(path: Path, dtype: Any = "float32") -> Any:
    return load_model(ModelTable(dtype=dtype), str(path), CPU, quantized=True).model


def trained(base: Path, table: LoraTable) -> Any:
    """A model in 4 bits with an adapter, after two steps on a made-up loss."""
    model = load(base)
    names = [name for name, _ in model.named_parameters()]
    adapt(model, find_adapted(model, names, table), table, base=str(base), seed=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def four_bit_layers(model: nn.Module) -> Iterator[Linear4bit]:
    return (module for module in model.modules() if isinstance(module, Linear4bit))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_linear_layers_but_the_output_layer_have_four_bits(stored: Path, dtype: Any) -> None:
    """Normal float with double quantization, computing in the type of the model, half a byte a
    weight. Each block of 64 is the one of `to_nf4`, which is written independently, but for its
    scale: that has 8 bits of its own."""
    model, plain = load(stored, dtype), wide_model().to(getattr(torch, dtype))
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Linear4bit)}
    assert len(layers) == 7 * 2
    assert type(model.get_output_embeddings()) is nn.Linear
    for name, module in layers.items():
        state, weight = module.weight.quant_state, plain.get_submodule(name).weight.detach()
        assert (state.quant_type, state.nested) == ("nf4", True)
        assert module.compute_dtype == weight.dtype
        assert module.weight.numel() == weight.numel() / 2
        found = dequantize_4bit(module.weight.data, state).float().view(-1, 64)
        expected = to_nf4(weight.float()).view(-1, 64)
        scales = [blocks.abs().amax(1, keepdim=True) for blocks in (found, expected)]
        torch.testing.assert_close(scales[0], scales[1], rtol=0.05, atol=0)
        exact = 1e-6 if dtype == "float32" else 2**-8
        torch.testing.assert_close(found / scales[0], expected / scales[1], rtol=exact, atol=exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answering_changes_no_bit(stored: Path, dtype: Any) -> None:
    """In training and out of it the same fingerprint and the same logits; loaded again, too."""
    model = load(stored, dtype)
    bits = fingerprint(model)
    assert bits == fingerprint(load(stored, dtype))
    first = logits(model)
    assert fingerprint(model) == bits
    model.train()
    assert torch.equal(model(input_ids=IDS).logits, first)
    assert fingerprint(model) == bits


def test_a_fingerprint_sees_the_bits_and_the_scales(stored: Path) -> None:
    """One code, or one scale, that differs makes another model."""
    model = load(stored)
    layer = next(four_bit_layers(model))
    seen = {fingerprint(model)}
    layer.weight.data[0] += 1
    seen.add(fingerprint(model))
    layer.weight.quant_state.absmax[0] += 1
    assert len({*seen, fingerprint(model)}) == 3


@pytest.mark.parametrize("table", KINDS)
def test_training_moves_every_matrix_and_no_bit_of_the_base(stored: Path, table: LoraTable) -> None:
    """The adapter alone has gradients; without it the model says what it said before training."""
    model, untouched = trained(stored, table), load(stored)
    drawn = load(stored)
    names = [name for name, _ in drawn.named_parameters()]
    adapt(drawn, find_adapted(drawn, names, table), table, base=str(stored), seed=0)
    before = dict(drawn.named_parameters())
    moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
    adapters = 7 * 2 if table.targets is None else 2 * 2 + 1
    assert len(moving) == (2 + table.dora) * adapters
    assert not [name for name, p in moving.items() if torch.equal(p, before[name])]
    kept = {k.replace(".base_layer", ""): v for k, v in model.state_dict().items()}
    for name, value in untouched.state_dict().items():
        assert torch.equal(kept[name], value), name
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert torch.equal(logits(model), logits(untouched))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # in peft
@pytest.mark.parametrize("table", KINDS)
def test_a_saved_adapter_gives_the_same_on_the_same_base(stored: Path, table: LoraTable) -> None:
    """Plain peft on a base that plain transformers loaded in 4 bits, and this tool's own loading;
    the folder holds the adapter and no base."""
    model = trained(stored, table)
    folder = stored.with_name(f"adapter-{KINDS.index(table)}")
    save_model(model, make_tiny(["some text"], 0)[1], folder)
    assert {path.name for path in folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert fingerprint(load(folder)) == fingerprint(model)
    assert torch.equal(logits(load(folder)), logits(model))
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        stored, quantization_config=config, dtype=torch.float32
    )
    quantized.keep_bits(base)  # where the CPU has it, the library's packing would round once more
    assert torch.equal(logits(PeftModel.from_pretrained(base, folder)), logits(model))


@pytest.mark.parametrize("table", KINDS)
def test_merged_it_is_a_plain_model_that_says_the_same(
    stored: Path, tmp_path: Path, table: LoraTable
) -> None:
    """Within rounding; saved, plain transformers loads it without bitsandbytes, to the bit."""
    model = trained(stored, table)
    before = logits(model)
    merge(model)
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in wide_model().named_parameters()
    ]
    assert not list(four_bit_layers(model))
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    save_model(model, make_tiny(["some text"], 0)[1], tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(again.config, "quantization_config")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("table", [None, *KINDS])
def test_a_stress_test_sees_whole_weights_and_leaves_no_trace(
    stored: Path, table: LoraTable | None
) -> None:
    """Inside, all of the model's own weights are whole, can be trained and decide alone; afterwards
    every bit is as before. So for the retain reference, which has no adapter."""
    model = trained(stored, table) if table else load(stored)
    before, bits = logits(model), fingerprint(model)
    with quantized.dequantized(model), restored(model), folded(model):
        torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
        assert all(p.is_floating_point() for p in own_parameters(model))
        for parameter in own_parameters(model):
            parameter.requires_grad_(True)
            with torch.no_grad():
                parameter.zero_()
        assert not logits(model).any()
    assert fingerprint(model) == bits
    assert torch.equal(logits(model), before)


def test_rows_that_end_within_a_block_are_refused(tmp_path: Path) -> None:
    """The library reads their scales wrongly on a CPU: one error that names the layer."""
    save_model(tiny_model(), make_tiny(["some text"], 0)[1], tmp_path / "narrow")
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj: has 32 inputs"):
        load(tmp_path / "narrow")


def test_gradients_of_the_weights_are_those_of_whole_ones(stored: Path) -> None:
    """The metric `gradient_norm`, which weights of 4 bits could not give."""
    model, rows = trained(stored, KINDS[0]), made_up_rows(2)
    found = gradient_norms(Scorer(model), rows)
    bits = fingerprint(model)
    merge(model)
    assert fingerprint(model) != bits
    assert found == pytest.approx(gradient_norms(Scorer(model), rows), rel=1e-5)


def test_a_forecast_is_that_of_what_will_be_held(stored: Path) -> None:
    """Beside the weights a dry run, which has a skeleton of whole weights, counts what an estimate
    of the loaded model counts; of the weights it takes off what 4 bits and their scales save."""
    table = LoraTable(rank=4, base="nf4")
    loaded, skeleton = load(stored), load_skeleton(ModelTable(), str(stored)).to(torch.float32)
    whole = sum(p.nbytes for p in skeleton.parameters())
    held = sum(p.nbytes for p in loaded.parameters()) + sum(map(scale_bytes, loaded.modules()))
    names = [name for name, _ in loaded.named_parameters()]
    for model in (loaded, skeleton):
        adapt(model, find_adapted(model, names, table), table, base="", seed=0)
    real, ahead = (estimated(model.train()) for model in (loaded, skeleton))
    assert (real.gradients, real.optimizer) == (ahead.gradients, ahead.optimizer)
    assert real.peak - real.weights == ahead.peak - ahead.weights
    assert quantized.rounded_away(skeleton) == pytest.approx(whole - held, rel=0.02)


def scale_bytes(module: Any) -> int:
    """Of a layer of 4 bits: a byte for 64 weights, and 4 bytes for 256 of these."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return state.absmax.nbytes + state.state2.absmax.nbytes if state else 0


def estimated(model: Any) -> Estimate:
    return estimate_step(
        lambda: (imagine(model, CPU), [nll_term("rows", 1.0)]),
        {"rows": made_up_rows(8, seed=5)},
        make_plan(forget=8, retain=0, batch_size=8, seed=0, epochs=1),
        Accelerator(),
        micro_batch=8,
        optimizer="adamw",
    )


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bitsandbytes: the key that needs it, and what to install."""
    monkeypatch.setattr("unlearn_cli.engine.quantized.find_spec", lambda name: None)

    def spec(**changed: Any) -> tables.Spec:
        method, data = tables.MethodTable(name="npo"), tables.DataTable()
        return tables.Spec(name="x", data=data, method=method, **changed)

    quantized.check(spec())
    keys: dict[str, dict[str, Any]] = {
        "[lora].base": {"lora": LoraTable(rank=1, base="nf4")},
        "[train].optimizer": {"train": tables.TrainTable(optimizer="adamw_8bit")},
        "[target].optimizer": {"target": tables.TargetTable(optimizer="adamw_8bit")},
    }
    for key, changed in keys.items():
        with pytest.raises(UsageError, match=r"unlearn-cli\[quantized\]") as caught:
            quantized.check(spec(**changed))
        assert caught.value.where == key
